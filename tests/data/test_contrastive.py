from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from latentbridge.config import PretrainTeacherConfig
from latentbridge.data import contrastive, worlds
from latentbridge.data.contrastive import ContrastiveSampler, hard_negative
from latentbridge.data.drawings.catalogue import Drawings, describe_drawing
from latentbridge.data.shapes.language import parse_description
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import Scene, scenes, split_of
from latentbridge.rng import numpy_rng

STAGE = PretrainTeacherConfig()


@pytest.fixture
def sampler(toy_drawings: Drawings, monkeypatch: pytest.MonkeyPatch) -> ContrastiveSampler:
    """Return a sampler of toy drawings only, with three drawable concepts."""
    drawings = toy_drawings.split("train")
    labels = sorted({drawing.label for drawing in drawings})[:3]
    monkeypatch.setattr(worlds, "load_drawings", lambda: toy_drawings)
    monkeypatch.setattr(worlds, "drawable_drawings", lambda _: [d for d in drawings if d.label in labels])
    return ContrastiveSampler(PretrainTeacherConfig(sources=(("drawings", 1.0),)))


def facts(scene: Scene) -> set[object]:
    return {scene.background, *((t.place, t.shape, t.colour, t.size) for t in scene.things)}


def differing_attribute(scene: Scene, negative: Scene) -> str:
    """Return the only attribute in which two scenes differ."""
    removed, added = facts(scene) - facts(negative), facts(negative) - facts(scene)
    assert len(removed) == len(added) == 1 and len(scene.things) == len(negative.things)
    (old,), (new,) = removed, added
    if isinstance(old, str):
        return "background"
    assert isinstance(old, tuple) and isinstance(new, tuple)
    (index,) = [i for i in range(4) if old[i] != new[i]]
    return ("place", "shape", "colour", "size")[index]


def test_hard_negatives_differ_in_one_attribute_each_equally_often() -> None:
    rng = numpy_rng(0, "near misses")
    source = scenes("train", rng)
    pairs = [(scene, hard_negative(scene, rng)) for scene in (next(source) for _ in range(997))]
    assert all(split_of(negative) == "train" for _, negative in pairs)
    counts = Counter(differing_attribute(*pair) for pair in pairs)
    assert counts.keys() == {"background", "place", "shape", "colour", "size"}
    assert all(0.14 < count / len(pairs) < 0.26 for count in counts.values())


def test_canonical_texts_match_their_pictures_and_identities_their_scenes() -> None:
    rng = numpy_rng(0, "families")
    for _ in range(31):
        scene, negative = ContrastiveSampler(STAGE).sample_group(rng, free=False)
        labels_by_identity = [parse_description(member.text) for member in (scene, negative)]
        assert (
            labels_by_identity[0]
            and labels_by_identity[1]
            and differing_attribute(labels_by_identity[0], labels_by_identity[1])
        )
        for member, parsed in zip((scene, negative), labels_by_identity, strict=True):
            assert parsed and np.abs(render(parsed).astype(int) - member.picture).mean() < 9, "but for places' jitter"
            assert member.identity == parsed.digest() >> 8
        assert scene.identity != negative.identity


def test_scenes_have_at_most_the_given_number_of_things() -> None:
    rng = numpy_rng(0, "few things")
    texts = [
        member.text for _ in range(40) for member in ContrastiveSampler(STAGE).sample_group(rng, free=False, most=2)
    ]
    assert {text.count(",") for text in texts} == {1, 2}


def test_free_texts_of_scenes_are_paraphrases() -> None:
    rng = numpy_rng(0, "free families")
    members = [member for _ in range(20) for member in ContrastiveSampler(STAGE).sample_group(rng, free=True)]
    assert not any(parse_description(member.text) for member in members) and len({m.identity for m in members}) == 40


def test_hard_negatives_of_drawings_differ_in_background_style_or_concept(
    sampler: ContrastiveSampler, toy_drawings: Drawings
) -> None:
    rng, differences = numpy_rng(0, "drawn families"), Counter()
    drawings = {
        toy_drawings.on_background(d.index, contrastive.BACKGROUNDS[background]).tobytes(): describe_drawing(
            d, background
        )
        for d in toy_drawings.split("train")
        for background in contrastive.BACKGROUND_NAMES
    }
    for _ in range(211):
        first, second = sampler.sample_group(rng, free=False)
        assert [drawings[member.picture.tobytes()] for member in (first, second)] == [first.text, second.text]
        assert (first.identity == second.identity) == (first.text == second.text)
        parts = [member.text.split(", ") for member in (first, second)]
        differences[tuple(a != b for a, b in zip(*parts, strict=True))] += 1
    one_thing = {(True, False, False), (False, True, False), (False, False, True)}
    assert one_thing <= differences.keys() <= one_thing | {(False, False, False)}
    assert differences[False, False, False] < 211 / 3, "a drawing may stand for itself, but mostly another one does"


def test_free_drawings_are_alone_with_their_concepts_identity(
    sampler: ContrastiveSampler, toy_drawings: Drawings
) -> None:
    rng = numpy_rng(0, "free drawings")
    label_of = {caption: d.label for d in toy_drawings.split("train") for caption in d.captions}
    labels_by_identity: dict[int, set[str]] = {}
    for _ in range(61):
        (member,) = sampler.sample_group(rng, free=True)
        labels_by_identity.setdefault(member.identity, set()).add(label_of[member.text])
    assert all(len(labels) == 1 for labels in labels_by_identity.values()) and len(labels_by_identity) > 3


def test_groups_are_a_function_of_the_generator() -> None:
    for free in (False, True):
        first, again = (ContrastiveSampler(STAGE).sample_group(numpy_rng(3, "twice"), free) for _ in range(2))
        assert [(m.text, m.identity, m.picture.tobytes()) for m in first] == [
            (m.text, m.identity, m.picture.tobytes()) for m in again
        ]
