from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.data.manifests import write_manifest

from latentbridge import prompts
from latentbridge.config import DataStageConfig, FinetuneConfig, SftConfig
from latentbridge.data import worlds
from latentbridge.data.own.sharding import shard_manifest
from latentbridge.data.own.stream import InterleavedReader
from latentbridge.data.worlds import ManifestWorld, Mixture
from latentbridge.images import fit_square, open_picture
from latentbridge.recipes import RECIPES
from latentbridge.rng import numpy_rng

ASKED = {"question": "Who?", "answer": "me"}
EDIT = {"instruction": "lighten", "target": "b.png", "description": "a light wall"}


def own_talks(manifest: Path, count: int = 60) -> list:
    world, rng = ManifestWorld(manifest), numpy_rng(0, "test")
    return [world.sample_conversation(rng) for _ in range(count)]


def test_questions_about_one_picture_share_a_conversation_of_at_most_five(tmp_path: Path):
    manifest = write_manifest(tmp_path, 0, a=ASKED)
    line = manifest.read_text().strip()
    more = [line.replace("Who?", f"Who {number}?") for number in range(6)]
    manifest.write_text("\n".join([line, *more]))
    talks = own_talks(manifest)
    assert {len(talk.turns) for talk in talks} == {5}
    assert {question for talk in talks for question, _ in talk.turns} == {"Who?", *(f"Who {n}?" for n in range(6))}
    assert all(len({question for question, _ in talk.turns}) == 5 for talk in talks)


def test_a_picture_with_texts_is_described_and_sometimes_requested(tmp_path: Path):
    talks = own_talks(write_manifest(tmp_path, 1), 200)
    requests = [talk for talk in talks if not talk.all_pictures]
    assert {talk.turns for talk in requests} == {
        ((prompts.draw_request("text 0"), prompts.wrap_description("text 0")),)
    }
    assert 0.1 < len(requests) / len(talks) < 0.3
    assert {reply for talk in talks if talk.all_pictures for _, reply in talk.turns} == {"text 0"}


def test_an_edit_is_answered_by_the_description_to_draw(tmp_path: Path):
    manifest = write_manifest(tmp_path, 0, a={"edit": EDIT}, b={"texts": ["a wall"], "split": "train"})
    source, target = (fit_square(open_picture(tmp_path / name), 64) for name in ("a.png", "b.png"))
    world, rng = ManifestWorld(manifest), numpy_rng(0, "test")
    edit = (prompts.edit_request("lighten"), prompts.wrap_description("a light wall"))
    talks = [world.sample_conversation(rng) for _ in range(60)]
    edits = [talk for talk in talks if talk.turns == (edit,)]
    described = [talk for talk in talks if talk.turns[0][1] == "a light wall"]
    assert edits and all((talk.all_pictures[0] == source).all() for talk in edits)
    assert described and all((talk.all_pictures[0] == target).all() for talk in described)
    pairs = [world.sample_align_item(rng) for _ in range(40)]
    assert {pair.caption for pair in pairs} == {"a light wall", "a wall"}
    assert all((pair.target == target).all() for pair in pairs)


def test_equal_texts_have_one_identity(tmp_path: Path):
    world = ManifestWorld(write_manifest(tmp_path, 0, a={"texts": ["A  cat"]}, b={"texts": ["a cat"]}))
    rng = numpy_rng(0, "test")
    items = [world.sample_align_item(rng) for _ in range(20)]
    assert {item.caption for item in items} == {"A  cat", "a cat"} and len({item.identity for item in items}) == 1


@pytest.mark.parametrize("sharded", [False, True])
def test_pairs_come_from_built_in_worlds_if_own_data_have_none(tmp_path: Path, sharded: bool):
    source = str(write_manifest(tmp_path / "asked", 0, a=ASKED))
    captioned = str(write_manifest(tmp_path / "told", 2))
    if sharded:
        for name, manifest in (("s", source), ("t", captioned)):
            shard_manifest(Path(manifest), tmp_path / name, progress=False)
        source, captioned = str(tmp_path / "s"), str(tmp_path / "t")
    rng = numpy_rng(0, "test")
    for own, most, least in ((source, 0, 0), (captioned, 30, 10)):
        mixture = Mixture(FinetuneConfig(sources=((own, 1.0), ("shapes", 1.0))), seed=0)
        pairs = [mixture.sample_pair(rng, n) for n in range(40)]
        assert all(item.caption.startswith("text ") == is_own for item, is_own in pairs)
        assert least <= sum(is_own for _, is_own in pairs) <= most


# --- the mixture -------------------------------------------------------------------------------------

OLD_SHARES = {
    "pretrain-decoder": 0.2,
    "scene-teacher": 0.4,
    "sft": 0.25,
    "sft-binding": 0.2,
    "sft-edits": 0.2,
    "align": 0.3,
    "finetune": 0.3,
    "drawings-sft": 0.9,
    **dict.fromkeys(("post-sft", "post-reca", "post-unigame", "post-unicot", "post-latentumm"), 0.5),
    **dict.fromkeys(("post-latentumm-reference", "quickstart"), 0.5),
}
"""`stage.drawings` of recipes before 2026-12-01, when `stage.sources` took its place; 0 of all others."""


def old_pick(rng: np.random.Generator, drawings: float, manifest: bool) -> str:
    """Return the world that `Mixture.pick` chose by `stage.drawings` and `stage.manifest`."""
    if manifest and rng.random() < 0.5:
        return "own.jsonl"
    return "drawings" if drawings and rng.random() < drawings else "shapes"


@pytest.mark.parametrize("added", ["", "own.jsonl"])
def test_sources_pick_the_samples_that_the_settings_before_them_did(monkeypatch: pytest.MonkeyPatch, added: str):
    monkeypatch.setattr(worlds, "ShapesWorld", lambda tasks: "shapes")
    monkeypatch.setattr(worlds, "DrawingsWorld", lambda: "drawings")
    monkeypatch.setattr(worlds, "ManifestWorld", str)
    for name, config in RECIPES.items():
        if not isinstance(stage := config.stage, DataStageConfig):
            continue
        if added:
            stage = replace(stage, sources=((added, sum(weight for _, weight in stage.sources)), *stage.sources))
        mixture, before, now = Mixture(stage, seed=0), numpy_rng(0, "test"), numpy_rng(0, "test")
        share = OLD_SHARES.get(name, 0.0)
        assert mixture.drawings_share == share
        picks = [old_pick(before, share, bool(added)) for _ in range(1000)]
        assert [mixture.world_at(now, number) for number in range(1000)] == picks
        assert now.random() == before.random()
        shares = (0.5, (1 - share) / 2, share / 2) if added else (1 - share, share)
        old, new = ([w for w in weights if w] for weights in (shares, [weight for _, weight in stage.sources]))
        turns = [InterleavedReader(weights, seed=0) for weights in (old, new)]
        assert [turns[0].at(n) for n in range(10_000)] == [turns[1].at(n) for n in range(10_000)]


def test_any_number_of_sources_is_drawn_by_weight(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worlds, "ShapesWorld", lambda tasks: "shapes")
    monkeypatch.setattr(worlds, "ManifestWorld", str)
    mixture = Mixture(SftConfig(sources=(("a.jsonl", 1.0), ("shapes", 2.0), ("b.jsonl", 5.0))), seed=0)
    rng = numpy_rng(0, "test")
    picks = Counter(str(mixture.world_at(rng, number)) for number in range(8000))
    assert {name: round(count / 1000) for name, count in picks.items()} == {"a.jsonl": 1, "shapes": 2, "b.jsonl": 5}
