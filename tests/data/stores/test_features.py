from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentbridge.data.stores.array_log import RaggedArray
from latentbridge.data.stores.features import cached_features
from latentbridge.errors import UserError

KEY = {"weights": "abc", "seed": 0}
LENGTHS = (2, 1, 3, 2, 1)


class Counting:
    """A function that computes features and records the indices."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, indices: range) -> dict[str, list[np.ndarray]]:
        self.seen += indices
        states = [np.full((LENGTHS[i], 2), i, dtype=np.float16) for i in indices]
        return {"states": states, "number": [np.array([i]) for i in indices]}


def fetch(folder: Path, compute: Counting, key: dict = KEY, count: int = 5) -> dict[str, RaggedArray]:
    return cached_features(folder, key, count, compute, batch_size=2, progress=False)


def test_features_are_computed_once_in_order(tmp_path: Path):
    compute = Counting()
    first, again = fetch(tmp_path, compute), fetch(tmp_path, compute)
    assert compute.seen == [0, 1, 2, 3, 4]
    for features in (first, again):
        assert features.keys() == {"states", "number"} and len(features["states"]) == 5
        assert [len(features["states"][i]) for i in range(5)] == list(LENGTHS)
        assert features["states"][2].tolist() == [[2, 2]] * 3 and features["states"].rows.dtype == np.float16
        assert [int(features["number"][i][0]) for i in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("key", "count"), [({"weights": "abd", "seed": 0}, 5), ({"weights": "abc", "seed": 1}, 5), (KEY, 4)]
)
def test_another_key_or_count_is_a_cache_miss(tmp_path: Path, key: dict, count: int):
    fetch(tmp_path, Counting())
    compute = Counting()
    fetch(tmp_path, compute, key, count)
    assert compute.seen == list(range(count))
    assert len(list(tmp_path.iterdir())) == 2


def test_the_order_of_keys_does_not_matter(tmp_path: Path):
    fetch(tmp_path, Counting())
    compute = Counting()
    fetch(tmp_path, compute, {"seed": 0, "weights": "abc"})
    assert compute.seen == []


def test_an_interrupted_cache_resumes(tmp_path: Path):
    class Killed(Counting):
        def __call__(self, indices: range) -> dict[str, list[np.ndarray]]:
            if 4 in indices:
                raise KeyboardInterrupt
            return super().__call__(indices)

    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path, Killed())
    compute = Counting()
    features = fetch(tmp_path, compute)
    assert compute.seen == [4]
    assert [features["states"][i].tolist() for i in range(5)] == [[[i, i]] * LENGTHS[i] for i in range(5)]


def test_a_damaged_store_is_refused(tmp_path: Path):
    fetch(tmp_path, Counting())
    (path,) = tmp_path.glob("*/states.rows")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="damaged .states.rows.; delete that folder"):
        fetch(tmp_path, Counting())
