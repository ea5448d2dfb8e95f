from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from latentbridge.data.stores.embeddings import EmbeddingStore, picture_digest, text_digest
from latentbridge.data.stores.released_embeddings import embedding_id, import_released
from latentbridge.errors import UserError
from latentbridge.types import EmbeddingSpace

FIXTURE = Path(__file__).parents[2] / "golden" / "latentumm" / "fixture.json"


def test_ids_equal_the_released_ones() -> None:
    checked = 0
    for case in json.loads(FIXTURE.read_text())["cases"]["index"]:
        place = case["data_indexes"]
        if isinstance(place, dict):  # the release also takes a row's whole record, a bare number, and nothing
            place = place["data_indexes"]
        if isinstance(place, list):
            assert embedding_id(place, case["rows_per_parquet"], case["row_group_size"]) == case["id"]
            checked += 1
    assert checked == 6


def test_files_share_ids_unless_their_length_is_told() -> None:
    assert embedding_id([2, 3, 5]) == embedding_id([7, 3, 5]) == 305
    assert embedding_id([2, 3, 5], rows_per_file=1000, rows_per_group=11) == 2038


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Rows 305 and 306 under three of the release's spellings."""
    files = {
        "image_embedding/305": {"values": [1, 2, 3]},
        "text_embedding/305": {"embedding": [4, 5, 6]},
        "image_embedding/306": {"embeddings": [[7, 8, 9]]},
        "text_embedding/306": {"values": [10, 11, 12]},
    }
    for name, entry in files.items():
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(entry))
    return tmp_path


def test_released_vectors_are_found_by_content(released: Path) -> None:
    store = EmbeddingStore(released / "store", EmbeddingSpace("released", 3, "none"))
    pictures = [np.full((2, 3, 3), value, np.uint8) for value in (0, 1)]
    rows = [(305, pictures[0], "a cat"), (306, pictures[1], "a dog")]
    import_released(store, released, rows)
    import_released(store, released / "gone", rows)  # what is stored is not read again
    digests = [text_digest("a dog"), picture_digest(pictures[0]), picture_digest(pictures[1]), text_digest("a cat")]
    assert store.vectors(digests).tolist() == [[10, 11, 12], [1, 2, 3], [7, 8, 9], [4, 5, 6]]


@pytest.mark.parametrize("content", ["{", '{"vector": [1]}', '{"values": ["a"]}', "[1]"])
def test_files_without_a_vector_are_refused(released: Path, content: str) -> None:
    store = EmbeddingStore(released / "store", EmbeddingSpace("released", 3, "none"))
    (released / "text_embedding" / "305.json").write_text(content)
    with pytest.raises(UserError, match="305.json holds no embedding"):
        import_released(store, released, [(305, np.zeros((2, 3, 3), np.uint8), "a cat")])
    with pytest.raises(UserError, match="There is no embedding .*307.json"):
        import_released(store, released, [(307, np.ones((2, 3, 3), np.uint8), "a cow")])
