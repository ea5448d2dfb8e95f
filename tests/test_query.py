"""Building and searching an index with a small random model: routes, weights and refusals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from latentbridge.config import ModelConfig
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import fingerprint, load, new_model
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.query import QueryPart, build_index, check_maker, parse_query, query_of, search_index
from latentbridge.retrieval.exact import ExactIndex
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.index import Index
from latentbridge.retrieval.vector_rows import combine
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture


@pytest.fixture(scope="module")
def model(small_config: ModelConfig) -> OmniBridge:
    return new_model(small_config, seed=0)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [render(scene) for scene in distinct_scenes("test", numpy_rng(0, "test search"), 5)]


@pytest.fixture(scope="module")
def index(model: OmniBridge, pictures: list[Picture]) -> Index:
    return build_index(model, zip("abcde", pictures, strict=True), batch_size=2)


def test_every_picture_finds_itself(model: OmniBridge, index: Index, pictures: list[Picture]) -> None:
    assert list(index.ids()) == list("abcde")
    for name, picture in zip("abcde", pictures, strict=True):
        best = search_index(model, index, QueryPart(picture=picture), k=1)[0]
        assert best.id == name
        assert best.score == pytest.approx(1.0, abs=1e-5)  # the same picture in another batch


def test_an_index_that_is_given_is_filled_though_it_is_empty(model: OmniBridge, pictures: list[Picture]) -> None:
    given = ExactIndex(model.embedding_size, fingerprint(model))
    assert build_index(model, zip("abcde", pictures, strict=True), given) is given
    assert len(given) == 5


def test_pictures_are_read_one_batch_at_a_time(model: OmniBridge, pictures: list[Picture]) -> None:
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


def test_parts_are_weighed_and_a_negative_one_leads_away(
    model: OmniBridge, index: Index, pictures: list[Picture]
) -> None:
    picture, red, owl = model.embed(images=pictures[0]), model.embed(texts="red"), model.embed(texts="an owl")
    wishes = [
        QueryPart(picture=pictures[0]),
        QueryPart(words="but red", weight=0.5),
        QueryPart(words="an owl", weight=-0.25),
    ]
    expected = combine([picture, red, owl], [1, 0.5, -0.25])
    assert query_of(model, index, wishes) == pytest.approx(expected, abs=1e-6)
    assert [hit.id for hit in search_index(model, index, *wishes)] == [hit.id for hit in index.search(expected)[0]]
    given = [QueryPart(vector=picture), QueryPart(vector=red, weight=0.5), QueryPart(vector=owl, weight=-0.25)]
    assert np.array_equal(query_of(model, index, given), expected)
    with pytest.raises(UserError, match="not only what to avoid"):
        search_index(model, index, QueryPart(words="red", weight=-1.0))


def test_more_like_an_item_leaves_the_item_out(model: OmniBridge, index: Index) -> None:
    alone = combine([index.vectors(["c"])], [1.0])  # a wish has length 1 anew, to float32's last bit
    expected = [hit for hit in index.search(alone, 5)[0] if hit.id != "c"]
    assert search_index(model, index, QueryPart(item="c"), k=4) == expected
    assert search_index(model, index, QueryPart(item="c"), k=2) == expected[:2]
    with pytest.raises(UserError, match="no item 'nobody'"):
        search_index(model, index, QueryPart(item="nobody"))


def test_only_what_meets_the_conditions_is_found(model: OmniBridge, pictures: list[Picture]) -> None:
    index = ExactIndex(model.embedding_size)
    vectors = np.concatenate([model.embed(images=[picture]) for picture in pictures])
    index.add(list("abcde"), vectors, [{"number": number} for number in range(5)])
    hits = search_index(model, index, "a red star", where=[Condition("number", ">=", 3)])
    assert sorted(hit.id for hit in hits) == ["d", "e"]


def test_a_wish_is_one_of_three() -> None:
    for wrong in ({}, {"words": "red", "item": "a"}):
        with pytest.raises(UserError, match="one of the three"):
            QueryPart(**wrong)


def test_an_index_of_another_model_is_refused(model: OmniBridge, index: Index, small_config: ModelConfig) -> None:
    assert index.maker == fingerprint(model)
    check_maker(new_model(small_config, seed=0), index, "here")
    with pytest.raises(UserError, match="another model"):
        check_maker(new_model(small_config, seed=1), index, "here")


# --- words that the shipped model does not know ---


@pytest.fixture(scope="module")
def tiny() -> OmniBridge:
    return load("tiny")


@pytest.fixture(scope="module")
def tiny_index(tiny: OmniBridge, pictures: list[Picture]) -> Index:
    return build_index(tiny, zip("abcde", pictures, strict=True))


def test_unknown_words_are_named_and_the_rest_ranks(tiny: OmniBridge, tiny_index: Index):
    found = search_index(tiny, tiny_index, "a red zxqv circle, blorp")
    assert found == search_index(tiny, tiny_index, "a red circle") and len(found) == 5
    assert found.unknown_words == ["zxqv", "blorp"]
    assert found.warnings == ['The model does not know "zxqv" and "blorp"; ranked by the rest.']


@pytest.mark.parametrize("text", ["zxqv blorp", "猫", "кошка", "???"])
def test_where_no_word_is_known_nothing_is_found_unless_asked(tiny: OmniBridge, tiny_index: Index, text: str):
    nothing = search_index(tiny, tiny_index, text)
    assert nothing == [] and nothing.warnings == [
        f'The model knows no word of "{text}", so nothing was looked for; allow unknown words to get a guess.'
    ]
    guess = search_index(tiny, tiny_index, text, allow_unknown=True)
    assert guess == search_index(tiny, tiny_index, QueryPart(vector=tiny.embed(texts=text)))
    assert guess.warnings == [f'The model knows no word of "{text}"; what it finds for that is a guess.']
    assert guess.unknown_words == nothing.unknown_words == (text.split() if text != "???" else [])


def test_beside_a_picture_unknown_words_are_left_out(tiny: OmniBridge, tiny_index: Index, pictures: list[Picture]):
    alone = search_index(tiny, tiny_index, QueryPart(picture=pictures[2]))
    beside = search_index(
        tiny, tiny_index, QueryPart(picture=pictures[2]), "but zxqv", QueryPart(words="blorp", weight=-0.5)
    )
    assert beside == alone and alone.warnings == [] and alone.unknown_words == []
    assert beside.warnings == ['The model does not know "zxqv" and "blorp"; ranked by the rest.']


def test_what_is_to_be_avoided_alone_ranks_nothing(tiny: OmniBridge, tiny_index: Index):
    found = search_index(tiny, tiny_index, "zxqv", QueryPart(words="red", weight=-0.5))
    assert found == [] and "nothing was looked for" in found.warnings[0]


@pytest.mark.parametrize(
    "text",
    [
        "a red circle left of a small blue star on white",
        "Describe the picture",
        "SEA animals",
        "an automobile, a kitty and a physician",
        "ostriches beside a lighthouse",
        "two women in kayaks",
        "a crêpe",
    ],
)
def test_words_of_its_worlds_and_common_ones_are_known(tiny: OmniBridge, text: str):
    query = parse_query(tiny, [QueryPart(words=text)])
    assert query.unknown_words == [] and query.warnings == [] and query.parts == [QueryPart(words=text)]


def test_a_model_without_a_record_of_its_words_reports_none(model: OmniBridge, index: Index):
    found = search_index(model, index, "zxqv 猫")
    assert len(found) == 5 and found.warnings == [] and found.unknown_words == []
