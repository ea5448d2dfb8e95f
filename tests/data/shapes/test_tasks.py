from __future__ import annotations

import re

import numpy as np
import pytest

from latentbridge import prompts
from latentbridge.config import TaskMix
from latentbridge.data.reasoning import read_chain
from latentbridge.data.shapes.language import describe, parse_description, sample_edit
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import HELD_OUT_PAIRS, Scene, Thing, distinct_scenes, split_of
from latentbridge.data.shapes.tasks import (
    scene_conversation,
    scene_drawing_plan,
    scene_edit,
    scene_questions,
    scene_reasoning,
    scene_request,
)
from latentbridge.rng import numpy_rng
from latentbridge.types import Conversation

WORDS = {
    "circle": "circle|disc|round shape",
    "square": "square|box",
    "triangle": "triangle",
    "star": "star",
    "cross": "cross|plus sign",
    "diamond": "diamond|rhombus",
}
HELD_OUT = re.compile("|".join(rf"{colour} (?:{WORDS[shape]})" for colour, shape in sorted(HELD_OUT_PAIRS)))
TRAIN = distinct_scenes("train", numpy_rng(0, "test tasks"), 300)


def rng(step: int = 0) -> np.random.Generator:
    return numpy_rng(0, "test tasks", step)


def texts(talk: Conversation) -> str:
    return "\n".join(text for turn in talk.turns for text in turn)


def test_training_conversations_never_name_a_held_out_pair():
    conversations = [texts(scene_conversation(scene, rng(step), TaskMix())) for step, scene in enumerate(TRAIN)]
    assert not [text for text in conversations if HELD_OUT.search(text)]
    unseen = distinct_scenes("test_pairs", rng(), 30)  # the pattern does find them where they are
    assert all(HELD_OUT.search(describe(scene)) for scene in unseen)


def test_training_edits_lead_to_training_scenes():
    for step, scene in enumerate(TRAIN):
        talk, target = scene_edit(scene, rng(step))
        ((request, reply),) = talk.turns
        assert split_of(target) == "train" and target != scene
        assert parse_description(prompts.unwrap_description(reply)) == target
        assert request.startswith("Edit: ") and np.array_equal(talk.all_pictures[0], render(scene))  # pyright: ignore


def test_a_scene_without_a_training_edit_gives_a_request():
    things = [
        Thing(place, "circle", "blue", size) for place, size in ((1, "large"), (5, "small"), (7, "small"), (8, "large"))
    ]
    scene = Scene.from_things(things, "sky")
    assert {sample_edit(scene, rng(seed)).kind for seed in range(20)} == {"background"} and split_of(scene) == "train"
    talk, target = scene_edit(scene, rng())
    assert target == scene and not talk.all_pictures


def test_a_request_is_answered_by_the_full_description():
    for step, scene in enumerate(TRAIN[:50]):
        talk, target = scene_request(scene, rng(step))
        assert target == scene and not talk.all_pictures
        assert talk.turns[0][0].startswith("Draw: ")
        assert talk.turns[0][1] == prompts.wrap_description(describe(scene))


def test_scene_questions_are_five_or_a_description_and_two():
    scene = TRAIN[0]
    talks = [[answer for _, answer in scene_questions(scene, rng(seed)).turns] for seed in range(60)]
    described = [replies for replies in talks if describe(scene) in replies]
    assert 15 < len(described) < 45 and {len(replies) for replies in described} == {3}
    assert {len(replies) for replies in talks if describe(scene) not in replies} == {5}
    assert {replies.index(describe(scene)) for replies in described} == {0, 1, 2}


def test_reasoning_is_asked_for_in_the_prompt():
    ((request, reply),) = scene_reasoning(TRAIN[0], rng()).turns
    assert request.endswith(prompts.REASONING_REQUEST) and reply.startswith("### Image Description: ")


@pytest.mark.parametrize("kind", ["vqa", "cot", "generation", "editing"])
def test_a_mix_of_one_kind_gives_that_kind(kind: str):
    mix = TaskMix(**{name: float(name == kind) for name in ("vqa", "cot", "generation", "editing")})
    for step in range(5):
        talk = scene_conversation(TRAIN[step], rng(step), mix)
        first = talk.turns[0][0]
        seen = (
            "generation" if first.startswith("Draw: ") else "editing" if first.startswith("Edit: ")
            else "cot" if first.endswith(prompts.REASONING_REQUEST) else "vqa"
        )  # fmt: skip
        assert seen == kind


def test_a_drawing_plan_lists_each_thing_before_the_description():
    for step, scene in enumerate(TRAIN[:50]):
        ((request, reply),) = scene_drawing_plan(scene, rng(step)).turns
        prompt = scene_request(scene, rng(step))[0].turns[0][0]
        assert request == prompts.with_reasoning(prompt)
        thoughts, _, rest = reply.partition(prompts.IMG_START)
        assert parse_description(prompts.unwrap_description(reply)) == scene and rest.endswith(prompts.IMG_END)
        named = [line.partition(": ")[2] for line in thoughts.splitlines()]
        assert parse_description(", ".join(named[1:])) == scene
        assert thoughts.count("### Step") == len(scene.things) + 2
    two = Scene.from_things([Thing(0, "star", "blue", "small"), Thing(7, "circle", "red", "large")], "sand")
    ((_, reply),) = scene_drawing_plan(two, rng()).turns
    assert reply == (
        "### Step 1: two objects\n### Step 2: small blue star top left\n### Step 3: large red circle bottom\n"
        "### Step 4: on sand\n<img>small blue star top left, large red circle bottom, on sand</img>"
    )


def test_long_reasoning_is_requested_and_given():
    mix = TaskMix(vqa=0, cot=0, generation=0, editing=0, long_cot=1)
    for step, scene in enumerate(TRAIN[:61]):
        ((request, reply),) = scene_conversation(scene, rng(step), mix).turns
        chain = read_chain(reply)
        assert request.endswith("? Reason at length.") and chain is not None
        assert parse_description(chain.description) == scene


def test_long_chains_have_their_share_and_take_nothing_from_mixes_without_them():
    def requests(mix: TaskMix) -> list[str]:
        return [texts(scene_conversation(scene, rng(step), mix)) for step, scene in enumerate(TRAIN)]

    without = requests(TaskMix())
    assert not [text for text in without if prompts.LONG_REASONING_REQUEST in text]
    only = requests(TaskMix(vqa=0, cot=0, generation=0, editing=0, long_cot=0.5))
    assert all(prompts.LONG_REASONING_REQUEST in text for text in only)
    # what the shipped model learned from: the first draw of a mix is the same uniform number with or without the fifth kind
    weights = np.array([0.45, 0.15, 0.20, 0.20])
    for step in range(97):
        assert rng(step).choice(4, p=weights / weights.sum()) == rng(step).choice(
            5, p=np.append(weights, 0) / weights.sum()
        )
