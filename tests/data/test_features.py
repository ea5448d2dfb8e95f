from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentbridge.data.features import Ragged, cached_features
from latentbridge.errors import UserError

KEY = {"weights": "abc", "seed": 0}
LENGTHS = (2, 1, 3, 2, 1)


class Counting:
    """Computes features and remembers for which items."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, indices: range) -> dict[str, list[np.ndarray]]:
        self.seen += indices
        states = [np.full((LENGTHS[i], 2), i, dtype=np.float16) for i in indices]
        return {"states": states, "number": [np.array([i]) for i in indices]}


def fetch(folder: Path, compute: Counting, key: dict = KEY, count: int = 5) -> dict[str, Ragged]:
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
def test_another_key_or_count_is_a_miss(tmp_path: Path, key: dict, count: int):
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


@pytest.mark.parametrize("how", ["flip a bit", "cut", "delete"])
def test_a_damaged_store_is_refused(tmp_path: Path, how: str):
    fetch(tmp_path, Counting())
    (path,) = tmp_path.glob("*/states.rows.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    if how == "delete":
        path.unlink()
    else:
        path.write_bytes(content if how == "flip a bit" else content[:-4])
    with pytest.raises(UserError, match="damaged .states.rows.npy.; delete that folder"):
        fetch(tmp_path, Counting())


def test_a_store_cut_off_while_computing_is_computed_anew(tmp_path: Path):
    fetch(tmp_path, Counting())
    (manifest,) = tmp_path.glob("*/manifest.json")
    manifest.unlink()
    compute = Counting()
    assert fetch(tmp_path, compute)["states"][4].tolist() == [[4, 4]]
    assert compute.seen == [0, 1, 2, 3, 4]


def test_padding_by_hand():
    ragged = Ragged(np.array([[1], [2], [3], [4], [5], [6]]), np.array([2, 3, 6]))
    values, mask = ragged.padded([1, 0, 2, 1])
    assert values[..., 0].tolist() == [[3, 0, 0], [1, 2, 0], [4, 5, 6], [3, 0, 0]]
    assert mask.tolist() == [[True, False, False], [True, True, False], [True, True, True], [True, False, False]]
