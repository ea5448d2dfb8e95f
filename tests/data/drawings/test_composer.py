from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from latentbridge.data.drawings.catalogue import Drawing, Drawings, with_article
from latentbridge.data.drawings.composer import (
    COMPOSITION_BACKGROUNDS,
    Composition,
    PlacedDrawing,
    caption_composition,
    countable_plurals,
    is_held_out_pair,
    is_in_split,
    render_composition,
    sample_composition,
    sample_composition_edit,
    sample_composition_question,
    sprite_bank,
)
from latentbridge.errors import UserError
from latentbridge.rng import numpy_rng

NUM_DRAWS = 300
CHANGES = {"make": (0, 0), "remove": (1, 0), "add": (0, 1), "replace": (1, 1)}
"""Numbers of things (removed, added) by the first word of an instruction."""


def drawing(drawings: Drawings, label: str, artist: str = "Microsoft") -> Drawing:
    return next(d for d in drawings.records if d.label == label and d.artist == artist)


@pytest.fixture(scope="module")
def bank(toy_drawings):
    return sprite_bank(toy_drawings, "train")


@pytest.fixture(scope="module")
def compositions(bank):
    rng = numpy_rng(0, "compose")
    return [sample_composition(rng, bank) for _ in range(NUM_DRAWS)]


def test_countable_plurals():
    plurals = countable_plurals()
    assert len(plurals) > 200
    assert all(with_article(label).startswith(("a ", "an ")) for label in plurals)
    assert plurals["wolf"] == "wolves" and plurals["fox"] == "foxes" and plurals["strawberry"] == "strawberries"
    assert plurals["key"] == "keys" and plurals["watch"] == "watches"


def test_a_composition_is_a_function_of_its_generator(bank):
    assert [sample_composition(numpy_rng(1, "c"), bank) for _ in range(2)] == [
        sample_composition(numpy_rng(1, "c"), bank)
    ] * 2


def test_things_do_not_overlap(compositions, toy_drawings):
    for composition in compositions:
        covered = np.zeros((64, 64), dtype=int)
        for thing in composition.things:
            alone = replace(composition, things=(thing,))
            covered += (render_composition(alone, toy_drawings) != COMPOSITION_BACKGROUNDS[composition.background]).any(
                axis=-1
            )
        assert covered.max() == 1
        assert [thing.place for thing in composition.things] == sorted(thing.place for thing in composition.things)


def test_concepts_of_a_composition_have_different_clusters(compositions):
    for composition in compositions:
        for first, second in combinations((thing.drawing for thing in composition.things), 2):
            assert first.concept == second.concept or first.cluster != second.cluster
    assert Counter(len(c.things) for c in compositions).keys() == {1, 2, 3, 4}


def test_held_out_pairs_are_in_test_pairs_only(compositions, toy_drawings, bank):
    assert all(is_in_split(composition, "train") for composition in compositions)
    unseen = sprite_bank(toy_drawings, "test_pairs")
    rng = numpy_rng(0, "pairs")
    held_out = [sample_composition(rng, unseen) for _ in range(50)]
    assert all(
        is_in_split(composition, "test_pairs") and not is_in_split(composition, "train") for composition in held_out
    )
    assert {t.drawing.split for composition in held_out for t in composition.things} == {"train"}
    pairs = list(combinations([variants[0] for variants in bank.by_concept.values()], 2))
    share = np.mean([is_held_out_pair(*pair) for pair in pairs])
    assert abs(share - 0.1) < 0.03  # about 2,000 pairs: five standard deviations are 0.033


def test_a_rendered_composition_by_hand(toy_drawings):
    monkey = drawing(toy_drawings, "monkey")
    composition = Composition((PlacedDrawing(monkey, 0, 28), PlacedDrawing(monkey, 8, 28)), "mint")
    picture = render_composition(composition, toy_drawings)
    assert tuple(picture[32, 32]) == COMPOSITION_BACKGROUNDS["mint"]
    assert tuple(picture[16, 16]) == tuple(picture[48, 48]) != COMPOSITION_BACKGROUNDS["mint"]
    assert (picture[2:30, 2:30] == picture[34:62, 34:62]).all()
    assert (picture[:32, 32:] == COMPOSITION_BACKGROUNDS["mint"]).all()


def test_captions_are_complete_and_in_reading_order(toy_drawings):
    things = (PlacedDrawing(drawing(toy_drawings, "monkey"), 0, 28), PlacedDrawing(drawing(toy_drawings, "fox"), 8, 28))
    composition = Composition(things, "mint")
    assert caption_composition(composition) == "monkey top left, fox bottom right, on mint"


def test_answers_are_true(compositions, bank):
    """Compare answers with those parsed from the question."""
    rng = numpy_rng(0, "ask")
    kinds = Counter()
    for composition in compositions * 3:
        question, answer, kind = sample_composition_question(composition, bank, rng)
        kinds[kind] += 1
        labels = [thing.drawing.label for thing in composition.things]
        caption = caption_composition(composition)
        if kind == "count":
            plural = question.removeprefix("How many ").removesuffix(" are there?")
            singular = {v: k for k, v in countable_plurals().items()}[plural]
            assert answer == str(labels.count(singular))
        elif kind == "presence":
            name = question.removeprefix("Is there ").rstrip("?").split(" ", 1)[1]
            assert answer == ("yes" if name in labels else "no")
        elif kind == "place":
            name = question.removeprefix("Where is the ").rstrip("?")
            assert f"{name} {answer}" in caption.split(", ")
        elif kind == "what" and len(labels) > 1:
            place = question.split(" the ", 1)[1].rstrip("?")
            assert f"{answer} {place}" in caption.split(", ")
        elif kind == "relation":
            match = re.fullmatch(r"Is the (.+) (left of|right of|above|below) the (.+)\?", question)
            assert match is not None
            first, second = (composition.things[labels.index(name)] for name in match.group(1, 3))
            dx, dy = second.place % 3 - first.place % 3, second.place // 3 - first.place // 3
            truth = {"left of": dx > 0, "right of": dx < 0, "above": dy > 0, "below": dy < 0}[match[2]]
            assert answer == ("yes" if truth else "no")
        elif kind == "colour":
            name = question.removeprefix("What color is the ").rstrip("?")
            assert composition.things[labels.index(name)].drawing.colours[0][0] == answer
    assert min(kinds[kind] for kind in ("what", "place", "count", "colour", "relation", "presence")) > 30


def test_yes_and_no_are_balanced(compositions, bank):
    rng = numpy_rng(0, "balance")
    answers = Counter(
        answer
        for c in compositions * 5
        for _, answer, kind in [sample_composition_question(c, bank, rng)]
        if kind in ("presence", "relation")
    )
    total = answers.total()
    assert abs(answers["yes"] - total / 2) < 2.5 * total**0.5  # five standard deviations of a fair coin


def test_edits_change_only_what_they_name(compositions, bank, toy_drawings):
    rng = numpy_rng(0, "edit")
    verbs = Counter()
    for composition in compositions:
        instruction, target = sample_composition_edit(composition, bank, rng)
        verb = instruction.split()[0]
        verbs[verb] += 1
        before, after = Counter(composition.things), Counter(target.things)
        lost, gained = before - after, after - before
        assert is_in_split(target, "train") and target != composition
        assert (lost.total(), gained.total()) == CHANGES[verb]
        assert all(thing.drawing.label in instruction for thing in (*lost, *gained))
        assert (target.background == composition.background) == (verb != "make")
        if verb == "remove":
            changed = (render_composition(composition, toy_drawings) != render_composition(target, toy_drawings)).any(
                axis=-1
            )
            only = replace(composition, things=tuple(lost))
            assert (
                changed
                <= (render_composition(only, toy_drawings) != COMPOSITION_BACKGROUNDS[composition.background]).any(
                    axis=-1
                )
            ).all()
    assert verbs.keys() == CHANGES.keys()


def test_too_few_drawings_and_unknown_splits_are_refused(toy_drawings):
    with pytest.raises(UserError, match="did you mean 'test_pairs'"):
        sprite_bank(toy_drawings, "test_pair")  # pyright: ignore[reportArgumentType]
    empty = replace(toy_drawings, records=toy_drawings.records[:2])
    with pytest.raises(UserError, match="too few countable drawings"):
        sprite_bank(empty, "train")
