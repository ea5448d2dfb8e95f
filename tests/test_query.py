"""Tests of building and searching an index with a small random model, and of unknown words with the shipped one."""

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
from latentbridge.query import (
    QueryPart,
    build_index,
    check_index_model,
    combine_vectors,
    embed_query,
    parse_query,
    search_index,
)
from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.exact_index import ExactIndex
from latentbridge.retrieval.filters import Condition
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


def test_build_index_fills_an_empty_index(model: OmniBridge, pictures: list[Picture]) -> None:
    empty = ExactIndex(model.embedding_size, fingerprint(model))
    assert build_index(model, zip("abcde", pictures, strict=True), empty) is empty
    assert len(empty) == 5


def test_pictures_are_read_batch_by_batch(model: OmniBridge, pictures: list[Picture]) -> None:
    read: list[str] = []

    def pairs() -> Iterator[tuple[str, Picture]]:
        for number in range(100):
            read.append(str(number))
            if number == 5:
                raise KeyboardInterrupt
            yield str(number), pictures[number % 5]

    with pytest.raises(KeyboardInterrupt):
        build_index(model, pairs(), batch_size=2)
    assert len(read) == 6  # nothing was read ahead of its batch


def test_parts_are_weighted_and_may_be_negative(model: OmniBridge, index: Index, pictures: list[Picture]) -> None:
    picture, red, owl = model.embed(images=pictures[0]), model.embed(texts="red"), model.embed(texts="an owl")
    parts = [
        QueryPart(picture=pictures[0]),
        QueryPart(text="but red", weight=0.5),
        QueryPart(text="an owl", weight=-0.25),
    ]
    expected = combine_vectors([picture, red, owl], [1, 0.5, -0.25])
    assert embed_query(model, index, parts) == pytest.approx(expected, abs=1e-6)
    assert [hit.id for hit in search_index(model, index, *parts)] == [hit.id for hit in index.search(expected)[0]]
    vectors = [QueryPart(vector=picture), QueryPart(vector=red, weight=0.5), QueryPart(vector=owl, weight=-0.25)]
    assert np.array_equal(embed_query(model, index, vectors), expected)
    with pytest.raises(UserError, match="not only what to avoid"):
        search_index(model, index, QueryPart(text="red", weight=-1.0))


def test_combine_vectors_matches_hand_computed_values() -> None:
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    # east + 3 * north has length sqrt(10); float32 keeps seven digits
    assert combine_vectors([east, north], [1, 3]) == pytest.approx(np.array([1, 3]) / np.sqrt(10), abs=1e-6)
    assert combine_vectors([east, north], [1, -1]) == pytest.approx(np.array([1, -1]) / np.sqrt(2), abs=1e-6)
    assert combine_vectors([east[None], north[None]], [2, 0]).tolist() == [[1.0, 0.0]]
    with pytest.raises(UserError, match="cancel"):
        combine_vectors([east, -east], [0.5, 0.5])


def test_more_like_an_item_excludes_the_item(model: OmniBridge, index: Index) -> None:
    alone = combine_vectors([index.vectors(["c"])], [1.0])  # normalised again, which may change the last bit
    expected = [hit for hit in index.search(alone, 5)[0] if hit.id != "c"]
    assert search_index(model, index, QueryPart(item="c"), k=4) == expected
    assert search_index(model, index, QueryPart(item="c"), k=2) == expected[:2]
    with pytest.raises(UserError, match="no item 'nobody'"):
        search_index(model, index, QueryPart(item="nobody"))


def test_hits_meet_the_conditions(model: OmniBridge, pictures: list[Picture]) -> None:
    index = ExactIndex(model.embedding_size)
    vectors = np.concatenate([model.embed(images=[picture]) for picture in pictures])
    index.add(list("abcde"), vectors, [{"number": number} for number in range(5)])
    hits = search_index(model, index, "a red star", where=[Condition("number", ">=", 3)])
    assert sorted(hit.id for hit in hits) == ["d", "e"]


def test_a_query_part_has_exactly_one_content() -> None:
    for wrong in ({}, {"text": "red", "item": "a"}):
        with pytest.raises(UserError, match="one of the three"):
            QueryPart(**wrong)


def test_an_index_of_another_model_is_refused(model: OmniBridge, index: Index, small_config: ModelConfig) -> None:
    assert index.model_fingerprint == fingerprint(model)
    check_index_model(new_model(small_config, seed=0), index, "here")
    with pytest.raises(UserError, match="another model"):
        check_index_model(new_model(small_config, seed=1), index, "here")


# --- unknown words of the shipped model ---


@pytest.fixture(scope="module")
def tiny() -> OmniBridge:
    return load("tiny")


@pytest.fixture(scope="module")
def tiny_index(tiny: OmniBridge, pictures: list[Picture]) -> Index:
    return build_index(tiny, zip("abcde", pictures, strict=True))


def test_unknown_words_are_reported_and_the_rest_ranks(tiny: OmniBridge, tiny_index: Index):
    found = search_index(tiny, tiny_index, "a red zxqv circle, blorp")
    assert found == search_index(tiny, tiny_index, "a red circle") and len(found) == 5
    assert found.unknown_words == ["zxqv", "blorp"]
    assert found.warnings == ['The model does not know "zxqv" and "blorp"; ranked by the rest.']


@pytest.mark.parametrize("text", ["zxqv blorp", "猫", "кошка", "???"])
def test_without_known_words_nothing_is_found_unless_allowed(tiny: OmniBridge, tiny_index: Index, text: str):
    empty = search_index(tiny, tiny_index, text)
    assert empty == [] and empty.warnings == [
        f'The model knows no word of "{text}", so nothing was looked for; allow unknown words to get a guess.'
    ]
    guess = search_index(tiny, tiny_index, text, allow_unknown=True)
    assert guess == search_index(tiny, tiny_index, QueryPart(vector=tiny.embed(texts=text)))
    assert guess.warnings == [f'The model knows no word of "{text}"; what it finds for that is a guess.']
    assert guess.unknown_words == empty.unknown_words == (text.split() if text != "???" else [])


def test_unknown_words_beside_a_picture_are_ignored(tiny: OmniBridge, tiny_index: Index, pictures: list[Picture]):
    alone = search_index(tiny, tiny_index, QueryPart(picture=pictures[2]))
    beside = search_index(
        tiny, tiny_index, QueryPart(picture=pictures[2]), "but zxqv", QueryPart(text="blorp", weight=-0.5)
    )
    assert beside == alone and alone.warnings == [] and alone.unknown_words == []
    assert beside.warnings == ['The model does not know "zxqv" and "blorp"; ranked by the rest.']


def test_negative_parts_alone_rank_nothing(tiny: OmniBridge, tiny_index: Index):
    found = search_index(tiny, tiny_index, "zxqv", QueryPart(text="red", weight=-0.5))
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
def test_common_words_and_words_of_its_worlds_are_known(tiny: OmniBridge, text: str):
    query = parse_query(tiny, [QueryPart(text=text)])
    assert query.unknown_words == [] and query.warnings == [] and query.parts == [QueryPart(text=text)]


def test_a_model_without_a_word_list_reports_no_unknown_words(model: OmniBridge, index: Index):
    found = search_index(model, index, "zxqv 猫")
    assert len(found) == 5 and found.warnings == [] and found.unknown_words == []
