"""Loopback with a small random model, and its measures by hand."""

from __future__ import annotations

import numpy as np
import pytest

from latentbridge.config import ModelConfig
from latentbridge.data.language import parse_description
from latentbridge.data.render import render
from latentbridge.data.scenes import Scene, distinct_scenes
from latentbridge.evaluation.loopback import Hop, draw_sheet, half_life, loopback, loopback_many, shown_scene
from latentbridge.models.checkpoint import new_model
from latentbridge.models.unified import Model
from latentbridge.rng import numpy_rng


@pytest.fixture(scope="module")
def model(small_config: ModelConfig) -> Model:
    return new_model(small_config, seed=0)


def scene() -> Scene:
    found = parse_description("large red circle top left, small blue star bottom, on white")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def walk(model: Model) -> list[Hop]:
    return loopback(model, render(scene()), rounds=2, seed=3)


def test_each_hop_draws_the_words_for_the_picture_before(model: Model, walk: list[Hop]) -> None:
    assert len(walk) == 2
    assert walk[0].words == model.understand(render(scene()))
    assert walk[1].words == model.understand(walk[0].picture)
    assert walk[0].picture.shape == (64, 64, 3) and walk[0].picture.dtype == np.uint8


def test_likeness_is_the_cosine_of_the_models_embeddings(model: Model, walk: list[Hop]) -> None:
    origin, first, second = (model.embed(images=p) for p in (render(scene()), walk[0].picture, walk[1].picture))
    # float32 sums in another batch shape
    assert walk[1].to_origin == pytest.approx(float(second @ origin), abs=1e-5)
    assert walk[1].to_previous == pytest.approx(float(second @ first), abs=1e-5)
    assert walk[0].to_origin == walk[0].to_previous


def test_the_same_seed_walks_the_same_way_and_alone_as_among_others(model: Model, walk: list[Hop]) -> None:
    other = render(distinct_scenes("test", numpy_rng(1, "test loopback"), 1)[0])
    together = loopback_many(model, [other, render(scene())], rounds=2, seed=2)
    assert [hop.words for hop in together[1]] == [hop.words for hop in walk]
    # pixels may differ by a level: another batch shape sums in another order
    assert np.abs(together[1][0].picture.astype(int) - walk[0].picture).max() <= 1
    changed = loopback(model, render(scene()), rounds=1, seed=4)
    assert np.abs(changed[0].picture.astype(int) - walk[0].picture).max() > 1


def test_facts_are_counted_only_where_the_origin_is_a_scene(model: Model, walk: list[Hop]) -> None:
    assert all(hop.words_kept is not None and hop.picture_kept is not None for hop in walk)
    assert walk[0].words_kept == 0  # a random model says nothing that parses
    noise = numpy_rng(0, "test loopback noise").integers(0, 255, (64, 64, 3)).astype(np.uint8)
    hop = loopback(model, noise, rounds=1)[0]
    assert hop.words_kept is None and hop.picture_kept is None


def test_no_pictures_and_no_rounds(model: Model) -> None:
    assert loopback_many(model, []) == []
    assert loopback_many(model, [render(scene())], rounds=0) == [[]]


def test_shown_scene_tells_renderings_from_other_pictures() -> None:
    for expected in distinct_scenes("test", numpy_rng(2, "test shown"), 20):
        assert shown_scene(render(expected)) == expected
    picture = render(scene())
    assert shown_scene(picture[:32]) is None
    assert shown_scene(np.full_like(picture, 250)) is None  # a ground without things says nothing
    picture[40:60, 40:60] = 128
    assert shown_scene(picture) is None


def test_half_life_by_hand() -> None:
    assert half_life([0.75, 0.25]) == pytest.approx(1.5)
    assert half_life([0.0]) == pytest.approx(0.5)
    assert half_life([0.5]) == pytest.approx(1.0)
    assert half_life([0.9, 0.8, 0.7]) is None
    assert half_life([]) is None


def test_the_sheet_holds_every_picture_enlarged(walk: list[Hop]) -> None:
    sheet = np.asarray(draw_sheet([render(scene())], [walk]))
    assert (sheet[12 : 12 + 192 : 3, 12 : 12 + 192 : 3] == render(scene())).all()
    left = 12 + 2 * (192 + 12)
    assert (sheet[12 : 12 + 192 : 3, left : left + 192 : 3] == walk[1].picture).all()
