from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentbridge.data.stores.embeddings import EmbeddingStore, picture_digest, text_digest
from latentbridge.errors import UserError
from latentbridge.types import EmbeddingSpace, Picture, Teacher

SPACE = EmbeddingSpace("toy:1", 5, "unit")
PICTURES = [np.full((7, 11, 3), value, np.uint8) for value in range(37)]
TEXTS = [f"number {i}" for i in range(19)]


def direction(number: int, away: int) -> np.ndarray:
    """Return a unit vector of a number; texts and pictures are opposite."""
    vector = np.array([1.0, number, number**2, away, 3.0], np.float32)
    return vector / np.linalg.norm(vector)


class Toy(Teacher):
    """A teacher that embeds pictures by their grey and texts by their number, and is interrupted after `patience` items."""

    def __init__(self, space: EmbeddingSpace = SPACE, patience: int = 10**6) -> None:
        self.space, self.patience, self.embedded = space, patience, 0

    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        self._count(len(pictures))
        return np.stack([direction(int(picture[0, 0, 0]), 0) for picture in pictures])

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        self._count(len(texts))
        return np.stack([direction(int(text.split()[1]), -7) for text in texts])

    def cost(self, pictures: int, texts: Sequence[str]) -> str:
        return f"{pictures} pictures, {len(texts)} texts: $1" if pictures or texts else ""

    def _count(self, items: int) -> None:
        if self.embedded + items > self.patience:
            raise KeyboardInterrupt
        self.embedded += items


def fill(folder: Path, teacher: Toy, announced: list[str] | None = None) -> EmbeddingStore:
    store = EmbeddingStore(folder, SPACE)
    store.fill(teacher, PICTURES, TEXTS, announce=(announced if announced is not None else []).append, progress=False)
    return store


def test_each_content_has_its_own_vector(tmp_path: Path):
    for store in (fill(tmp_path, Toy()), EmbeddingStore(tmp_path, SPACE)):
        assert len(store) == 56
        digests = [picture_digest(PICTURES[31]), text_digest("number 2"), picture_digest(PICTURES[2])]
        np.testing.assert_array_equal(store.vectors(digests), [direction(31, 0), direction(2, -7), direction(2, 0)])


def test_an_interrupted_run_resumes_with_the_rest(tmp_path: Path):
    interrupted, rest, announced = Toy(patience=40), Toy(), []
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, interrupted, announced)
    store = fill(tmp_path, rest, announced)
    assert interrupted.embedded == 37 and rest.embedded == 19 and len(store) == 56
    assert announced == ["37 pictures, 19 texts: $1", "0 pictures, 19 texts: $1"]
    fill(tmp_path, idle := Toy(), announced)
    assert idle.embedded == 0 and len(announced) == 2


def test_equal_content_is_embedded_once(tmp_path: Path):
    Image.fromarray(PICTURES[3]).save(tmp_path / "a.png")
    Image.fromarray(PICTURES[3]).save(tmp_path / "b.bmp")
    store, teacher = EmbeddingStore(tmp_path / "store", SPACE), Toy()
    store.fill(teacher, [tmp_path / "a.png", tmp_path / "b.bmp", PICTURES[3]], ["number 3", "number 3"], progress=False)
    assert teacher.embedded == 2 == len(store)


def test_digests_depend_on_shape_pixels_and_kind():
    flat, tall = np.zeros((3, 5, 3), np.uint8), np.zeros((5, 3, 3), np.uint8)
    other = flat.copy()
    other[2, 4, 2] = 1
    texts = [text_digest(text) for text in ("a", "a ", "A")]
    assert len({picture_digest(flat), picture_digest(tall), picture_digest(other), *texts}) == 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "toy:2"}, "model 'toy:1', not 'toy:2'"),
        ({"dimension": 7}, "dimension 5, not 7"),
        ({"normalisation": "none"}, "normalisation 'unit', not 'none'"),
    ],
)
def test_another_space_is_refused(tmp_path: Path, change: dict, words: str):
    store = fill(tmp_path, Toy())
    other = replace(SPACE, **change)
    with pytest.raises(UserError, match=words):
        EmbeddingStore(tmp_path, other)
    with pytest.raises(UserError, match="use another folder"):
        store.fill(Toy(other), texts=["number 99"], progress=False)


def test_missing_items_are_counted(tmp_path: Path):
    store = fill(tmp_path, Toy())
    with pytest.raises(UserError, match="lacks the embeddings of 2 of 3 items"):
        store.vectors([text_digest("number 1"), text_digest("number 77"), text_digest("number 78")])


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (np.full((1, 5), 0.5), "length 1"),
        (np.zeros((1, 5)), "length 1"),
        (np.array([[1, 0, 0, 0, np.nan]]), "NaN"),
        (np.eye(7)[:1], "5 dimensions, not .1, 7."),
    ],
)
def test_invalid_vectors_are_refused(tmp_path: Path, vectors: np.ndarray, words: str):
    store = EmbeddingStore(tmp_path, SPACE)
    with pytest.raises(UserError, match=words):
        store.add([text_digest("x")], vectors)
    assert len(store) == 0 and text_digest("x") not in store


def test_vectors_of_any_norm_are_stored_without_normalisation(tmp_path: Path):
    store = EmbeddingStore(tmp_path, replace(SPACE, normalisation="none"))
    store.add([text_digest("x")], np.full((1, 5), 2.0))
    assert store.vectors([text_digest("x")]).tolist() == [[2.0] * 5]
