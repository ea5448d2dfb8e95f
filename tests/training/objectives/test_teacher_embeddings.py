from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from latentbridge.errors import UserError
from latentbridge.training.objectives.teacher_embeddings import Pair, TeacherEmbeddings
from latentbridge.types import EmbeddingSpace, Picture, Teacher


class Spelling(Teacher):
    """A teacher with letter counts as text embeddings and mean colours as image embeddings; knows no digits."""

    space = EmbeddingSpace("spelling", 3, "none")

    def __init__(self) -> None:
        self.embedded: list[str] = []

    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        return np.stack([picture.mean((0, 1)) for picture in pictures]).astype(np.float32)

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.embedded += texts
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], np.float32)

    def knows(self, text: str) -> bool:
        return text.isalpha()


def pair(colour: int, text: str) -> Pair:
    return np.full((2, 5, 3), colour, np.uint8), text


@pytest.fixture(autouse=True)
def temporary_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTBRIDGE_CACHE", str(tmp_path))


def test_lookup_returns_the_pairs_the_teacher_knows() -> None:
    pairs = [pair(10, "aab"), pair(20, "2 stars"), pair(40, "cc")]
    embeddings = TeacherEmbeddings(Spelling(), pairs)
    rows, text, image = embeddings.lookup(pairs)
    assert rows.tolist() == [0, 2]
    assert text.tolist() == [[2, 1, 0], [0, 0, 2]] and image.tolist() == [[10, 10, 10], [40, 40, 40]]
    assert embeddings.text_mean.tolist() == [1, 0.5, 1] and embeddings.image_mean.tolist() == [25, 25, 25]
    rows, text, image = embeddings.lookup(pairs[1:2])
    assert len(rows) == 0 and text.shape == image.shape == (0, 3)


def test_embeddings_are_cached() -> None:
    first, second, pairs = Spelling(), Spelling(), [pair(10, "aab"), pair(10, "cc"), pair(40, "cc")]
    TeacherEmbeddings(first, pairs)
    assert first.embedded == ["aab", "cc"]
    found = TeacherEmbeddings(second, [*pairs, pair(7, "b")])
    assert second.embedded == ["b"]
    assert torch.equal(found.lookup(pairs).text, TeacherEmbeddings(Spelling(), pairs).lookup(pairs).text)


def test_a_teacher_that_knows_no_pair_is_an_error() -> None:
    with pytest.raises(
        UserError, match="'spelling' knows none of the run's texts; raise the weight of drawings in stage.sources"
    ):
        TeacherEmbeddings(Spelling(), [pair(10, "2 stars")])
