"""Building and searching an index with a small random model: routes, weights and refusals."""

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
from latentbridge.retrieval.exact import ExactIndex
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.index import Index
from latentbridge.retrieval.rows import combine
from latentbridge.rng import numpy_rng
from latentbridge.search import Wish, build_index, check_maker, query_of, search_index
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
    assert list(index.ids()) == list("abcde")
    for name, picture in zip("abcde", pictures, strict=True):
        best = search_index(model, index, Wish(picture=picture), k=1)[0]
        assert best.id == name
        assert best.score == pytest.approx(1.0, abs=1e-5)  # the same picture in another batch


def test_an_index_that_is_given_is_filled_though_it_is_empty(model: Model, pictures: list[Picture]) -> None:
    given = ExactIndex(model.embedding_size, fingerprint(model))
    assert build_index(model, zip("abcde", pictures, strict=True), given) is given
    assert len(given) == 5


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


def test_parts_are_weighed_and_a_negative_one_leads_away(model: Model, index: Index, pictures: list[Picture]) -> None:
    picture, red, owl = model.embed(images=pictures[0]), model.embed(texts="red"), model.embed(texts="an owl")
    wishes = [Wish(picture=pictures[0]), Wish(words="but red", weight=0.5), Wish(words="an owl", weight=-0.25)]
    expected = combine([picture, red, owl], [1, 0.5, -0.25])
    assert query_of(model, index, wishes) == pytest.approx(expected, abs=1e-6)
    assert [hit.id for hit in search_index(model, index, *wishes)] == [hit.id for hit in index.search(expected)[0]]
    given = [Wish(vector=picture), Wish(vector=red, weight=0.5), Wish(vector=owl, weight=-0.25)]
    assert np.array_equal(query_of(model, index, given), expected)
    with pytest.raises(UserError, match="not only what to avoid"):
        search_index(model, index, Wish(words="red", weight=-1.0))


def test_more_like_an_item_leaves_the_item_out(model: Model, index: Index) -> None:
    alone = combine([index.vectors(["c"])], [1.0])  # a wish has length 1 anew, to float32's last bit
    expected = [hit for hit in index.search(alone, 5)[0] if hit.id != "c"]
    assert search_index(model, index, Wish(item="c"), k=4) == expected
    assert search_index(model, index, Wish(item="c"), k=2) == expected[:2]
    with pytest.raises(UserError, match="no item 'nobody'"):
        search_index(model, index, Wish(item="nobody"))


def test_only_what_meets_the_conditions_is_found(model: Model, pictures: list[Picture]) -> None:
    index = ExactIndex(model.embedding_size)
    vectors = np.concatenate([model.embed(images=[picture]) for picture in pictures])
    index.add(list("abcde"), vectors, [{"number": number} for number in range(5)])
    hits = search_index(model, index, "a red star", where=[Condition("number", ">=", 3)])
    assert sorted(hit.id for hit in hits) == ["d", "e"]


def test_a_wish_is_one_of_three() -> None:
    for wrong in ({}, {"words": "red", "item": "a"}):
        with pytest.raises(UserError, match="one of the three"):
            Wish(**wrong)


def test_an_index_of_another_model_is_refused(model: Model, index: Index, small_config: ModelConfig) -> None:
    assert index.maker == fingerprint(model)
    check_maker(new_model(small_config, seed=0), index, "here")
    with pytest.raises(UserError, match="another model"):
        check_maker(new_model(small_config, seed=1), index, "here")
