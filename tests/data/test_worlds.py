from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.manifests import write_manifest

from latentbridge import prompts
from latentbridge.config import StageConfig
from latentbridge.data.own.sharding import shard_manifest
from latentbridge.data.worlds import ManifestWorld, Mixture
from latentbridge.images import fit_square, open_picture
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
    requests = [talk for talk in talks if talk.picture is None]
    assert {talk.turns for talk in requests} == {
        ((prompts.draw_request("text 0"), prompts.wrap_description("text 0")),)
    }
    assert 0.1 < len(requests) / len(talks) < 0.3
    assert {reply for talk in talks if talk.picture is not None for _, reply in talk.turns} == {"text 0"}


def test_an_edit_is_answered_by_the_description_to_draw(tmp_path: Path):
    manifest = write_manifest(tmp_path, 0, a={"edit": EDIT}, b={"texts": ["a wall"], "split": "train"})
    source, target = (fit_square(open_picture(tmp_path / name), 64) for name in ("a.png", "b.png"))
    world, rng = ManifestWorld(manifest), numpy_rng(0, "test")
    edit = (prompts.edit_request("lighten"), prompts.wrap_description("a light wall"))
    talks = [world.sample_conversation(rng) for _ in range(60)]
    edits = [talk for talk in talks if talk.turns == (edit,)]
    described = [talk for talk in talks if talk.turns[0][1] == "a light wall"]
    assert edits and all((talk.picture == source).all() for talk in edits)
    assert described and all((talk.picture == target).all() for talk in described)
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
        mixture = Mixture(StageConfig("finetune", manifest=own), seed=0)
        pairs = [mixture.sample_pair(rng, n) for n in range(40)]
        assert all(item.caption.startswith("text ") == is_own for item, is_own in pairs)
        assert least <= sum(is_own for _, is_own in pairs) <= most
