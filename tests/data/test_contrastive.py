from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from latentbridge.config import StageConfig
from latentbridge.data import contrastive, worlds
from latentbridge.data.contrastive import ContrastiveSampler, hard_negative
from latentbridge.data.drawings.catalogue import Drawings, describe_drawing
from latentbridge.data.shapes.language import parse_description
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import Scene, scenes, split_of
from latentbridge.rng import numpy_rng

STAGE = StageConfig("pretrain_teacher")


@pytest.fixture
def drawn(toy_drawings: Drawings, monkeypatch: pytest.MonkeyPatch) -> ContrastiveSampler:
    """Families of toy drawings only; three concepts count as those that are learned to be drawn."""
    known = toy_drawings.split("train")
    labels = sorted({drawing.label for drawing in known})[:3]
    monkeypatch.setattr(worlds, "load_drawings", lambda: toy_drawings)
    monkeypatch.setattr(worlds, "drawable_drawings", lambda drawings: [d for d in known if d.label in labels])
    return ContrastiveSampler(replace(STAGE, drawings=1.0))


def facts(scene: Scene) -> set[object]:
    return {scene.background, *((t.place, t.shape, t.colour, t.size) for t in scene.things)}


def what_differs(scene: Scene, missed: Scene) -> str:
    """The one attribute in which two scenes differ."""
    gone, come = facts(scene) - facts(missed), facts(missed) - facts(scene)
    assert len(gone) == len(come) == 1 and len(scene.things) == len(missed.things)
    (old,), (new,) = gone, come
    if isinstance(old, str):
        return "background"
    assert isinstance(old, tuple) and isinstance(new, tuple)
    (index,) = [i for i in range(4) if old[i] != new[i]]
    return ("place", "shape", "colour", "size")[index]


def test_a_near_miss_is_another_training_scene_that_differs_in_one_thing_each_as_often() -> None:
    rng = numpy_rng(0, "near misses")
    source = scenes("train", rng)
    pairs = [(scene, hard_negative(scene, rng)) for scene in (next(source) for _ in range(997))]
    assert all(split_of(missed) == "train" for _, missed in pairs)
    counts = Counter(what_differs(*pair) for pair in pairs)
    assert counts.keys() == {"background", "place", "shape", "colour", "size"}
    assert all(0.14 < count / len(pairs) < 0.26 for count in counts.values())


def test_canonical_families_say_what_they_show_and_equal_scenes_have_equal_numbers() -> None:
    rng = numpy_rng(0, "families")
    for _ in range(31):
        scene, missed = ContrastiveSampler(STAGE).sample_group(rng, free=False)
        found = [parse_description(member.text) for member in (scene, missed)]
        assert found[0] and found[1] and what_differs(found[0], found[1])
        for member, parsed in zip((scene, missed), found, strict=True):
            assert parsed and np.abs(render(parsed).astype(int) - member.picture).mean() < 9, "but for places' jitter"
            assert member.identity == parsed.digest() >> 8
        assert scene.identity != missed.identity


def test_scenes_have_at_most_the_things_they_may_have() -> None:
    rng = numpy_rng(0, "few things")
    texts = [
        member.text for _ in range(40) for member in ContrastiveSampler(STAGE).sample_group(rng, free=False, most=2)
    ]
    assert {text.count(",") for text in texts} == {1, 2}


def test_free_texts_of_scenes_are_other_words_for_the_same() -> None:
    rng = numpy_rng(0, "free families")
    members = [member for _ in range(20) for member in ContrastiveSampler(STAGE).sample_group(rng, free=True)]
    assert not any(parse_description(member.text) for member in members) and len({m.identity for m in members}) == 40


def test_canonical_drawings_miss_in_ground_hand_or_concept(drawn: ContrastiveSampler, toy_drawings: Drawings) -> None:
    rng, differ = numpy_rng(0, "drawn families"), Counter()
    known = {
        toy_drawings.on_background(d.index, contrastive.BACKGROUNDS[ground]).tobytes(): describe_drawing(d, ground)
        for d in toy_drawings.split("train")
        for ground in contrastive.BACKGROUND_NAMES
    }
    for _ in range(211):
        first, second = drawn.sample_group(rng, free=False)
        assert [known[member.picture.tobytes()] for member in (first, second)] == [first.text, second.text]
        assert (first.identity == second.identity) == (first.text == second.text)
        parts = [member.text.split(", ") for member in (first, second)]
        differ[tuple(a != b for a, b in zip(*parts, strict=True))] += 1
    one_thing = {(True, False, False), (False, True, False), (False, False, True)}
    assert one_thing <= differ.keys() <= one_thing | {(False, False, False)}
    assert differ[False, False, False] < 211 / 3, "a drawing may stand for itself, but mostly another one does"


def test_free_drawings_are_alone_and_know_their_concept(drawn: ContrastiveSampler, toy_drawings: Drawings) -> None:
    rng = numpy_rng(0, "free drawings")
    label_of = {caption: d.label for d in toy_drawings.split("train") for caption in d.captions}
    found: dict[int, set[str]] = {}
    for _ in range(61):
        (member,) = drawn.sample_group(rng, free=True)
        found.setdefault(member.identity, set()).add(label_of[member.text])
    assert all(len(labels) == 1 for labels in found.values()) and len(found) > 3


def test_families_are_a_function_of_the_generator() -> None:
    for free in (False, True):
        first, again = (ContrastiveSampler(STAGE).sample_group(numpy_rng(3, "twice"), free) for _ in range(2))
        assert [(m.text, m.identity, m.picture.tobytes()) for m in first] == [
            (m.text, m.identity, m.picture.tobytes()) for m in again
        ]
