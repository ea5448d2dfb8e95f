"""Building and searching an index with a small random model: routes, batches and refusals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from latentbridge.config import ModelConfig
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import fingerprint, new_model
from latentbridge.models.omnibridge.model import Model
from latentbridge.retrieval.index import Index, compose_query
from latentbridge.rng import numpy_rng
from latentbridge.search import build_index, search_index
from latentbridge.types import Picture


@pytest.fixture(scope="module")
def model(small_config: ModelConfig) -> Model:
    return new_model(small_config, seed=0)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [render(scene) for scene in distinct_scenes("test", numpy_rng(0, "test search"), 5)]


@pytest.fixture(scope="module")
def index(model: Model, pictures: list[Picture]) -> Index:
    return build_index(model, zip("abcde", pictures, strict=True), batch_size=2)


def test_every_picture_finds_itself(model: Model, index: Index, pictures: list[Picture]) -> None:
    assert index.ids == list("abcde")
    hits = search_index(model, index, image=pictures, k=1)
    assert [row[0].id for row in hits] == list("abcde")
    # the same picture in another batch: float32 rounding of another matrix shape only
    assert [row[0].score for row in hits] == pytest.approx([1.0] * 5, abs=1e-5)


def test_pictures_are_read_one_batch_at_a_time(model: Model, pictures: list[Picture]) -> None:
    taken: list[str] = []

    def pairs() -> Iterator[tuple[str, Picture]]:
        for number in range(100):
            taken.append(str(number))
            if number == 5:
                raise KeyboardInterrupt
            yield str(number), pictures[number % 5]

    with pytest.raises(KeyboardInterrupt):
        build_index(model, pairs(), batch_size=2)
    assert len(taken) == 6  # stopped where the source stopped: nothing was read ahead of its batch


def test_one_query_gives_hits_and_a_list_gives_lists(model: Model, index: Index) -> None:
    one = search_index(model, index, text="a red star", k=3)
    many = search_index(model, index, text=["a red star", "an owl"], k=3)
    assert [hit.id for hit in one] == [hit.id for hit in many[0]]
    assert len(many) == 2 and len(one) == 3


def test_but_composes_picture_and_words(model: Model, index: Index, pictures: list[Picture]) -> None:
    query = compose_query(model.embed(images=pictures[0]), model.embed(texts="red"), 0.25)
    expected = index.search(query, 5)[0]
    hits = search_index(model, index, image=pictures[0], but="but red", k=5, weight=0.25)
    assert [hit.id for hit in hits] == [hit.id for hit in expected]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-6)
    plain = search_index(model, index, image=pictures[0], k=5)
    assert [hit.score for hit in plain] != pytest.approx([hit.score for hit in expected], abs=1e-3)


def test_one_change_goes_with_all_pictures(model: Model, index: Index, pictures: list[Picture]) -> None:
    hits = search_index(model, index, image=pictures[:2], but="red", k=5)
    singly = [search_index(model, index, image=picture, but="red", k=5) for picture in pictures[:2]]
    assert [[hit.id for hit in row] for row in hits] == [[hit.id for hit in row] for row in singly]


def test_search_wants_exactly_one_of_text_and_picture(model: Model, index: Index, pictures: list[Picture]) -> None:
    for wrong in ({}, {"text": "red", "image": pictures[0]}):
        with pytest.raises(UserError, match="either a text or a picture"):
            search_index(model, index, **wrong)


def test_the_fingerprint_is_of_the_weights(model: Model, index: Index, small_config: ModelConfig) -> None:
    assert index.maker == fingerprint(model)
    assert fingerprint(new_model(small_config, seed=0)) == index.maker
    assert fingerprint(new_model(small_config, seed=1)) != index.maker


def test_vectors_are_unit_length(index: Index) -> None:
    assert np.linalg.norm(index.vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
