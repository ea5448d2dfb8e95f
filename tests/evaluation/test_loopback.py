"""Loopback with small random models, and its measures by hand on backbones that are known exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.evaluation.fake_backbones import Forgetful, Perfect, Stuck

from latentbridge.data.pairs import Pair, held_out_pairs
from latentbridge.data.shapes.language import describe, parse_description
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import Scene, distinct_scenes
from latentbridge.evaluation.encoders import ItemEncoder, model_encoder
from latentbridge.evaluation.loopback import (
    Round,
    detect_scene,
    facts_kept,
    half_life,
    loopback,
    loopback_chain,
    measure_loopback,
    pair_cells,
    pair_facts_kept,
    round_cells,
)
from latentbridge.evaluation.metrics import Score
from latentbridge.evaluation.pages.gallery import draw_sheet
from latentbridge.images import fit_square
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.rng import numpy_rng


@pytest.fixture(scope="module")
def backbone(small_model: OmniBridge) -> OmniBridge:
    return small_model


def scene() -> Scene:
    result = parse_description("large red circle top left, small blue star bottom, on white")
    assert result is not None
    return result


@pytest.fixture(scope="module")
def rounds(backbone: OmniBridge) -> list[Round]:
    return loopback(backbone, [render(scene())], rounds=2, seed=3)[0]


# --- the chain -----------------------------------------------------------------------------------


def test_each_round_generates_from_the_caption_of_the_previous_picture(
    small_model: OmniBridge, rounds: list[Round]
) -> None:
    assert len(rounds) == 2
    assert rounds[0].words == small_model.understand(render(scene()))
    assert rounds[1].words == small_model.understand(rounds[0].picture)
    noise = int(numpy_rng(3, "loopback", 1).integers(2**31))
    assert (rounds[1].picture == small_model.generate(rounds[1].words, noise, rewrite=False).picture).all()
    assert rounds[0].picture.shape == (64, 64, 3) and rounds[0].picture.dtype == np.uint8


def test_similarity_is_the_cosine_of_the_models_latents(backbone: OmniBridge, rounds: list[Round]) -> None:
    encoder = model_encoder(backbone)
    origin, first, second = (encoder.encode([p])[0] for p in (render(scene()), rounds[0].picture, rounds[1].picture))
    # float32 sums in another batch shape
    assert rounds[1].to_origin == pytest.approx(float(second @ origin), abs=1e-5)
    assert rounds[1].to_previous == pytest.approx(float(second @ first), abs=1e-5)
    assert rounds[0].to_origin == rounds[0].to_previous


def test_chains_are_deterministic_and_independent_of_their_batch(backbone: OmniBridge, rounds: list[Round]) -> None:
    other = render(distinct_scenes("test", numpy_rng(1, "test loopback"), 1)[0])
    together = loopback(backbone, [other, render(scene())], rounds=1, seed=2)
    assert together[1][0].words == rounds[0].words
    # pixels may differ by a level: another batch shape sums in another order
    assert np.abs(together[1][0].picture.astype(int) - rounds[0].picture).max() <= 1
    changed = loopback(backbone, [render(scene())], rounds=1, seed=4)[0]
    assert np.abs(changed[0].picture.astype(int) - rounds[0].picture).max() > 1


@pytest.mark.parametrize("name", ["small_model", "small_janus"])
def test_chains_of_any_backbone_start_from_pictures_or_texts(request: pytest.FixtureRequest, name: str) -> None:
    result: Any = request.getfixturevalue(name)
    backbone = result
    pairs = held_out_pairs("shapes", 3, seed=0)
    encoder = model_encoder(backbone)
    for start, kinds in (("picture", [str, np.ndarray]), ("text", [np.ndarray, str])):
        measured = measure_loopback(backbone, pairs, start, 2, [encoder], progress=False)
        assert [type(items[0]) for items in measured.hops] == kinds
        assert all(len(items) == 3 for items in measured.hops)
        assert all(np.isfinite([row.value, row.low, row.high]).all() for row in measured.rows)
    (drawn,) = loopback_chain(backbone, [pair.text for pair in pairs], 1, seed=0)
    again = [next(loopback_chain(backbone, [pair.text], 1, seed=i))[0] for i, pair in enumerate(pairs)]
    for one, other in zip(drawn, again, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def test_no_pictures_and_no_rounds(backbone: OmniBridge) -> None:
    assert loopback(backbone, []) == []
    assert loopback(backbone, [render(scene())], rounds=0) == [[]]


# --- the measures --------------------------------------------------------------------------------


def by_metric(rows: list[Score]) -> dict[str, Score]:
    result = {row.metric: row for row in rows}
    assert len(result) == len(rows)
    return result


def external(pictures: Any) -> np.ndarray:
    """Mean colours of nine cells."""
    return np.stack([p[:63, :63].reshape(3, 21, 3, 21, 3).mean(axis=(1, 3)).ravel() for p in pictures])


@pytest.mark.parametrize("start", ["picture", "text"])
def test_a_perfect_backbone_keeps_all_facts(seven_pairs: list[Pair], start: Any) -> None:
    backbone: Any = Perfect()
    measured = measure_loopback(backbone, seven_pairs, start, 5, [model_encoder(backbone)], progress=False)
    rows = by_metric(measured.rows)
    assert len(rows) == 5 * 5
    for hop in range(1, 6):
        kind = "text" if (hop % 2 == 1) == (start == "picture") else "picture"
        values = {name: rows[f"hop {hop}, {kind}: {name}"] for name in ("facts kept", "origin found (own)")}
        assert all((v.value, v.n, v.better) == (1.0, 7, "higher") for v in values.values())
        for name in ("drift (own)", "step drift (own)"):
            row = rows[f"hop {hop}, {kind}: {name}"]
            assert row.value == pytest.approx(0, abs=1e-6) and (row.unit, row.better) == ("cosine", "lower")
        assert rows[f"hop {hop}, {kind}: paired minus shuffled (own)"].value > 0.3
    assert measured.half_life == {"facts kept": None, "origin found (own)": None}


def test_a_forgetful_backbone_halves_the_facts_with_each_caption(seven_pairs: list[Pair]) -> None:
    backbone: Any = Forgetful()
    measured = measure_loopback(backbone, seven_pairs, "picture", 4, [model_encoder(backbone)], progress=False)
    rows = by_metric(measured.rows)
    kept = [rows[f"hop {hop}, {kind}: facts kept"] for hop, kind in enumerate(("text", "picture") * 2, start=1)]
    # of 4 things' 16 facts, background and count: 8 + 1, then 4 + 1
    assert [row.value for row in kept] == pytest.approx([9 / 18, 9 / 18, 5 / 18, 5 / 18], abs=1e-5)
    assert measured.half_life["facts kept"] == pytest.approx(1.0)
    # 4, 2 and 1 things have the squared norms 13, 7 and 4; each is a part of the one before
    assert rows["hop 1, text: drift (own)"].value == pytest.approx(1 - (7 / 13) ** 0.5, abs=1e-4)
    assert rows["hop 1, text: step drift (own)"].value == pytest.approx(1 - (7 / 13) ** 0.5, abs=1e-4)
    assert rows["hop 2, picture: step drift (own)"].value == pytest.approx(1 - (7 / 13) ** 0.5, abs=1e-4)
    assert rows["hop 3, text: drift (own)"].value == pytest.approx(1 - (4 / 13) ** 0.5, abs=1e-4)
    assert rows["hop 3, text: step drift (own)"].value == pytest.approx(1 - (4 / 7) ** 0.5, abs=1e-4)
    assert rows["hop 4, picture: origin found (own)"].value == 1.0

    words_first = measure_loopback(backbone, seven_pairs, "text", 2, [model_encoder(backbone)], progress=False)
    assert words_first.half_life["facts kept"] == pytest.approx(2.0)


def test_a_constant_generator_has_chance_retrieval(seven_pairs: list[Pair]) -> None:
    backbone: Any = Stuck()
    encoders = [ItemEncoder("external", external), model_encoder(backbone)]
    rows = by_metric(measure_loopback(backbone, seven_pairs, "text", 2, encoders, progress=False).rows)
    for name in ("external", "own"):
        result = rows[f"hop 1, picture: origin found ({name})"]
        assert result.value == pytest.approx(1 / 7) and result.note == "chance 14.3%"
        assert rows[f"hop 1, picture: paired minus shuffled ({name})"].value == pytest.approx(0, abs=1e-5)
    assert "hop 2, text: origin found (own)" in rows
    assert not any("hop 2" in metric and "external" in metric for metric in rows), "external encoders take no texts"


def test_pairs_without_scenes_are_measured_without_facts(seven_pairs: list[Pair]) -> None:
    backbone: Any = Perfect()
    plain = [Pair(pair.picture, pair.text) for pair in seven_pairs]
    measured = measure_loopback(backbone, plain, "picture", 1, [model_encoder(backbone)], progress=False)
    assert len(measured.rows) == 4 and measured.half_life == {"origin found (own)": None}


# --- facts ---------------------------------------------------------------------------------------


def test_facts_are_counted_only_if_the_origin_is_a_scene(backbone: OmniBridge, rounds: list[Round]) -> None:
    assert all(each.words_kept is not None and each.picture_kept is not None for each in rounds)
    assert rounds[0].words_kept == 0  # a random model says nothing that parses
    noise = numpy_rng(0, "test loopback noise").integers(0, 255, (64, 64, 3)).astype(np.uint8)
    each = loopback(backbone, [noise], rounds=1)[0][0]
    assert each.words_kept is None and each.picture_kept is None


def test_facts_are_read_in_pictures_of_any_size() -> None:
    assert facts_kept(render(scene()), scene()) == 1
    assert facts_kept(render(scene()).repeat(5, axis=0).repeat(5, axis=1), scene()) == 1
    assert facts_kept(fit_square(render(scene()), 32), scene()) == 1
    assert facts_kept(describe(scene()).replace("red", "green"), scene()) == pytest.approx(9 / 10)


def test_facts_of_drawings_are_label_and_background_in_words_only() -> None:
    pair = Pair(render(scene()), "hot dog, a simple icon, on sky", drawing=("hot dog", "sky"))
    said = {
        "hot dog, a 3d render, on sky": 1,
        "hot dog, a 3d render, on sand": 0.5,
        "hot dog center, on sky": 0,
        "sky": 0,
    }
    assert {text: pair_facts_kept(text, pair) for text in said} == said
    assert pair_facts_kept(pair.picture, pair) is None
    assert pair_facts_kept(pair.text, replace(pair, drawing=None)) is None


def test_detect_scene_rejects_pictures_that_are_no_renderings() -> None:
    for expected in distinct_scenes("test", numpy_rng(2, "test shown"), 20):
        assert detect_scene(render(expected)) == expected
    picture = render(scene())
    assert detect_scene(picture[:32]) is None
    assert detect_scene(np.full_like(picture, 250)) is None  # a ground without things says nothing
    picture[40:60, 40:60] = 128
    assert detect_scene(picture) is None


def test_half_life_by_hand() -> None:
    assert half_life([0.75, 0.25]) == pytest.approx(1.5)
    assert half_life([0.0]) == pytest.approx(0.5)
    assert half_life([0.5]) == pytest.approx(1.0)
    assert half_life([0.9, 0.8, 0.7]) is None
    assert half_life([]) is None


# --- galleries -----------------------------------------------------------------------------------


def test_the_sheet_has_each_picture_enlarged(rounds: list[Round]) -> None:
    sheet = np.asarray(draw_sheet([round_cells(render(scene()), rounds)]))
    assert (sheet[12 : 12 + 192 : 3, 12 : 12 + 192 : 3] == render(scene())).all()
    left = 12 + 2 * (192 + 12)
    assert (sheet[12 : 12 + 192 : 3, left : left + 192 : 3] == rounds[1].picture).all()


def test_small_and_large_pictures_share_a_sheet() -> None:
    cells = [[round_cells(np.full((side, side, 3), 9, np.uint8), [])[0]] for side in (32, 500)]
    sheet = np.asarray(draw_sheet(cells))
    row_height = (len(sheet) - 12) // 2
    for row in range(2):
        top = 12 + row * row_height
        assert (sheet[top : top + 192, 12 : 12 + 192] == 9).all()


def test_galleries_show_each_generated_picture_with_its_prompt(seven_pairs: list[Pair]) -> None:
    backbone: Any = Forgetful()
    for start, hops, notes in (("picture", 5, ["hop 2", "hop 4"]), ("text", 4, ["hop 1", "hop 3"])):
        measured = measure_loopback(backbone, seven_pairs, start, hops, [], progress=False)
        rows = pair_cells(measured, seven_pairs[:2])
        assert len(rows) == 2 and [cell.note for cell in rows[1][1:]] == notes
        for pair, (first, *drawn) in zip(seven_pairs[:2], rows, strict=True):
            assert (first.picture == pair.picture).all()
            assert all((cell.picture == render(backbone.scene(cell.words))).all() for cell in drawn)
