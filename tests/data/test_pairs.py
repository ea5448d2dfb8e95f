"""Held-out pairs of every world."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentbridge.data import pairs
from latentbridge.data.drawings.catalogue import Drawings, parse_drawing
from latentbridge.data.pairs import held_out_pairs
from latentbridge.data.shapes.language import parse_description
from latentbridge.data.shapes.oracle import read_scene
from latentbridge.data.shapes.scenes import split_of
from latentbridge.errors import UserError


def test_scene_pairs_are_held_out_and_distinct_with_questions():
    held_out = held_out_pairs("shapes", 31, seed=3)
    assert len({pair.text for pair in held_out}) == 31
    for pair in held_out:
        assert pair.scene is not None and split_of(pair.scene) == "test"
        assert read_scene(pair.picture) == parse_description(pair.text) == pair.scene
        assert pair.question and pair.answer
    assert [pair.text for pair in held_out_pairs("shapes", 31, seed=3)] == [pair.text for pair in held_out]
    assert [pair.text for pair in held_out_pairs("shapes", 31, seed=4)] != [pair.text for pair in held_out]


def test_drawing_pairs_are_held_out_with_name_questions(toy_drawings: Drawings, monkeypatch: pytest.MonkeyPatch):
    unseen = [d for split in ("val", "test_artist") for d in toy_drawings.split(split)]
    monkeypatch.setattr(pairs, "load_drawings", lambda: toy_drawings)
    monkeypatch.setattr(pairs, "FORTY_CONCEPTS", tuple({drawing.label for drawing in unseen[::2]}))
    held_out = held_out_pairs("drawings", 5, seed=0)
    assert len({pair.text for pair in held_out}) == 5 and all(pair.scene is None for pair in held_out)
    for pair in held_out:
        label, _, background = parse_drawing(pair.text) or ("", "", "")
        assert pair.answer == label in pairs.FORTY_CONCEPTS and pair.drawing == (label, background)
        assert any(
            (pair.picture == pairs.render_drawing(toy_drawings, d, pair.text.split(" on ")[-1])).all() for d in unseen
        )
    assert len(held_out_pairs("drawings", 10_000, seed=0)) <= len(unseen)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    lines = []
    for number, split in enumerate(["test", "test", "test", "train", "test"]):
        pixels = np.full((5 + number, 7, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        texts = {"texts": [f"wall {number % 3}", "a wall"]} if number != 2 else {}
        question = {"question": "What?", "answer": "a wall"} if number in (1, 2) else {}
        lines.append(json.dumps({"image": f"{number}.png", "split": split, **texts, **question}))
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_a_manifest_gives_its_test_records_with_texts(manifest: Path):
    held_out = {pair.text: pair for pair in held_out_pairs(str(manifest), 100, seed=0)}
    assert sorted(held_out) == ["wall 0", "wall 1"]  # the third has no text, the fourth is for training
    assert held_out["wall 0"].picture.shape == (5, 7, 3) and held_out["wall 0"].question is None
    assert (held_out["wall 1"].question, held_out["wall 1"].answer) == ("What?", "a wall")


def test_fewer_than_two_pairs_are_refused(manifest: Path):
    manifest.write_text(manifest.read_text().split("\n")[0])
    with pytest.raises(UserError, match="fewer than two held-out pairs"):
        held_out_pairs(str(manifest), 100, seed=0)
    with pytest.raises(UserError, match="no manifest"):
        held_out_pairs("none.jsonl", 100, seed=0)
