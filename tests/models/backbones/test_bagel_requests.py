"""Requests of users beyond a square drawing and one question: edits, shapes, thoughts, several pictures and turns, sampling."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel.mixture_of_transformers import Stream
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.bagel.options import DRAWING_THINK_PROMPT, READING_THINK_PROMPT, BagelOptions
from latentbridge.models.options import ReplyOptions
from latentbridge.rng import torch_rng
from latentbridge.types import Conversation

ATOL = 1e-4  # float32 rounding of states of order one
INSTRUCTIONS = ["make it green", "remove the second of the two large blue stars"]


@pytest.fixture
def bagel(small_bagel: Bagel) -> Bagel:
    """A copy that tests may change, with edits of as few moves as its drawings."""
    model = copy.deepcopy(small_bagel)
    model.edit_options = replace(model.edit_options, steps=3)
    return model


def some_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def by_segments(bagel: Bagel, segments: list[Tensor], pictures: list[bool]) -> Tensor:
    """The states of texts and pictures [s h] run one after the other over a cache, as the authors' `NaiveCache` is."""
    past, position, states = (), 0, []
    for embeds, is_picture in zip(segments, pictures, strict=True):
        count = len(embeds)
        places = torch.full((1, count), position) if is_picture else torch.arange(position, position + count)[None]
        earlier = torch.ones(1, count, past[0][0].shape[2] if past else 0, dtype=torch.bool)
        own = torch.ones(1, count, count, dtype=torch.bool)
        visible = torch.cat([earlier, own if is_picture else own.tril()], dim=2)
        (seen,), past = bagel.language_model([Stream(embeds[None], places)], visible, past)
        states.append(seen[0])
        position = int(places[0, -1]) + 1
    return torch.cat(states)


# --- conversations -------------------------------------------------------------------------------


@torch.no_grad()
def test_pictures_and_turns_follow_each_other_as_in_a_cache(bagel: Bagel):
    first, second, third = some_picture(32, 32), some_picture(20, 28, 1), some_picture(28, 14, 2)
    turns = (("Which is red?", "the first"), ("And now?", ""))
    conversation = Conversation(turns, ((first, second), (third,)), system="Be brief.")
    embed, text = bagel.language_model.embed_tokens, bagel.chat.text
    start, end = embed(torch.tensor([[bagel._image_start], [bagel._image_end]]))

    def seen(picture: np.ndarray) -> Tensor:
        return torch.cat([start, bagel.read([picture])[0], end])

    def said(words: list[int]) -> Tensor:
        return embed(torch.tensor(words))

    segments = [
        said(text("Be brief.")),
        seen(first),
        seen(second),
        said(text("Which is red?")),
        said(text("the first")),
    ]
    segments += [seen(third), said(text("And now?")), said([bagel.chat.start])]
    kinds = [False, True, True, False, False, True, False, False]
    shorter = Conversation((("What?", ""),), ((third,),))
    found = bagel.prefill_chat([shorter, conversation]).states[1]
    torch.testing.assert_close(found, by_segments(bagel, segments, kinds), atol=ATOL, rtol=0)
    assert bagel.count_tokens(conversation) == len(found)


@torch.no_grad()
def test_sampled_replies_are_those_of_their_seed_alone_and_among_others(bagel: Bagel):
    talks = [Conversation.with_picture((("What is it?", ""),), some_picture(32, 20, seed)) for seed in range(2)]
    talks.append(Conversation((("Hello, who are you, and what do you know?", ""),)))
    options = {"max_tokens": 6, "temperature": 2.0, "top_p": 0.9, "top_k": 50}

    def replies(which: list[int], seed: int = 0) -> list[tuple[int, ...]]:
        generators = [torch_rng(seed + i, "reply") for i in which]
        return [each.token_ids for each in bagel.reply([talks[i] for i in which], generators, **options)]

    together = replies([0, 1, 2])
    assert [replies([i])[0] for i in range(3)] == together and replies([0, 1, 2], seed=9) != together
    (reply,) = bagel.reply(talks[:1], [torch_rng(0, "reply")], **options)
    assert len(reply.logprobs) == len(reply.token_ids) and all(value < 0 for value in reply.logprobs)
    (greedy,) = bagel.reply(talks[:1], max_tokens=6)
    (likeliest,) = bagel.reply(talks[:1], [torch_rng(3, "reply")], **{**options, "top_k": 1})
    assert likeliest.token_ids == greedy.token_ids


@torch.no_grad()
def test_the_app_resizes_for_the_autoencoder_before_it_reads(bagel: Bagel):
    picture = some_picture(32, 12)
    chat = bagel.read([picture])[0]
    bagel.resize = "app"
    app = bagel.read([picture])[0]
    torch.testing.assert_close(app, bagel.eye([bagel.rule.resize(picture)])[0])
    assert (len(chat), len(app)) == (4, 8), "28 x 7 px, and 28 x 14 after 32 x 16 px"


@torch.no_grad()
def test_thoughts_before_an_answer_are_asked_for_by_a_system_message(bagel: Bagel):
    talk = Conversation((("What?", ""),))
    asked = bagel.reply([replace(talk, system=READING_THINK_PROMPT)])
    assert bagel.reply([talk], think=True) == asked != bagel.reply([talk])
    own = replace(talk, system="Be brief.")
    assert bagel.reply([own], think=True) == bagel.reply([own])


# --- drawings ------------------------------------------------------------------------------------


def test_shapes_within_the_grid_are_drawn_and_others_refused(bagel: Bagel):
    drawn = bagel.generate(["a red circle", "two stars"], seed=3, size=(16, 32))
    assert [each.picture.shape for each in drawn] == [(32, 16, 3)] * 2
    alone = bagel.generate("two stars", seed=4, size=(16, 32)).picture
    assert np.abs(alone.astype(int) - drawn[1].picture).max() <= 1
    assert bagel.generate("two stars").picture.shape == (32, 32, 3)
    for size in ((20, 32), (40, 32), (0, 32), (32,)):
        with pytest.raises(UserError, match="give two multiples of 8 up to 32"):
            bagel.generate("two stars", size=size)


def test_options_out_of_range_are_named(bagel: Bagel):
    for options, named in (
        ({"steps": 1}, "steps is 1"),
        ({"renorm": "local"}, "renorm 'local'"),
        ({"renorm_min": 1.5}, "renorm_min"),
        ({"interval": (0.5, 0.1)}, "interval"),
        ({"image_guidanc": 2.0}, "image_guidance"),
    ):
        with pytest.raises(UserError, match=named):
            bagel.generate("two stars", **options)


def test_guidance_away_from_the_picture_acts_on_prompts_too(bagel: Bagel):
    """Without a picture, that branch is the prompt itself, so both guidances together are one of 1.5 * 3 + 1."""
    both = bagel.generate("two stars", image_guidance=1.5, renorm_min=1.0).picture.astype(int)
    one = bagel.generate("two stars", guidance=5.5, renorm_min=1.0).picture
    assert np.abs(both - one).max() <= 1
    assert np.abs(both - bagel.generate("two stars", renorm_min=1.0).picture).max() > 8


@torch.no_grad()
def test_drawings_follow_from_prompt_and_thoughts(bagel: Bagel, monkeypatch: pytest.MonkeyPatch):
    (thoughts,) = [bagel.chat.text("<think> a round one </think>")[1:]]
    monkeypatch.setattr(bagel, "write", lambda opened, options: ([thoughts] * len(opened.states), None))
    options = BagelOptions(think=True)
    branches, found = bagel.branches(["a star"], (), options)
    assert found == ["<think> a round one </think>"]
    system, prompt, thought = (bagel.chat.text(words) for words in (DRAWING_THINK_PROMPT, "a star", found[0]))
    noise, times = bagel.noise([1], (2, 4)), torch.tensor([0.7])
    for branch, ids in zip(branches, (system + prompt + thought, system, system + prompt), strict=True):
        expected = bagel.velocity(noise, times, bagel.prefill(bagel.pad([ids])).context, (2, 4))
        torch.testing.assert_close(bagel.velocity(noise, times, branch, (2, 4)), expected, atol=ATOL, rtol=0)
    result = bagel.generate("a star", think=True)
    assert result.description == "a star\n<think> a round one </think>"
    assert bagel.edit(some_picture(32, 32), "a star", think=True).after == "<think> a round one </think>"


def test_thoughts_are_written_from_system_prompt_and_prompt(bagel: Bagel):
    _, (thought,) = bagel.branches(["a star"], (), BagelOptions(think=True, think_tokens=4))
    talk = Conversation((("a star", ""),), system=DRAWING_THINK_PROMPT)
    (reply,) = bagel.reply([talk], max_tokens=4)
    assert bagel.tokenizer.decode([i for i in reply.token_ids if i != bagel._eos]) == thought != ""


# --- edits ---------------------------------------------------------------------------------------


def test_edits_keep_their_pictures_shapes_alone_and_among_others(bagel: Bagel):
    pictures = [some_picture(32, 32), some_picture(100, 45, 1), some_picture(32, 32, 2)]
    texts = [*INSTRUCTIONS, "x"]
    edits = bagel.edit(pictures, texts, seed=5)
    assert [edit.picture.shape for edit in edits] == [(32, 32, 3), (32, 16, 3), (32, 32, 3)]
    for i in range(3):
        alone = bagel.edit(pictures[i], texts[i], seed=5 + i).picture.astype(int)
        assert np.abs(alone - edits[i].picture).max() <= 1
    assert all(edit.mask is None for edit in edits)
    assert bagel.edit(pictures[1], "x", size=(32, 8)).picture.shape == (8, 32, 3)
    with pytest.raises(UserError, match="does not draw 33x8"):
        bagel.edit(pictures[1], "x", size=(33, 8))


def test_edits_depend_on_picture_text_and_seed(bagel: Bagel):
    picture = some_picture(32, 32)
    edited = bagel.edit(picture, INSTRUCTIONS[0], seed=1).picture.astype(int)
    for other in (
        bagel.edit(255 - picture, INSTRUCTIONS[0], seed=1),
        bagel.edit(picture, INSTRUCTIONS[1], seed=1),
        bagel.edit(picture, INSTRUCTIONS[0], seed=2),
        bagel.edit(picture, INSTRUCTIONS[0], seed=1, image_guidance=1.0),
        bagel.edit(picture, INSTRUCTIONS[0], seed=1, renorm="global"),
    ):
        assert np.abs(edited - other.picture).max() > 4


@torch.no_grad()
def test_writing_stops_at_the_limit_and_at_the_last_end(bagel: Bagel):
    opened = bagel.prefill_request(["a star", "x"], ends=[[bagel.chat.start]] * 2)
    rows, log_probs = bagel.write(opened, ReplyOptions(max_tokens=3))
    assert [len(row) for row in rows] == [len(row) for row in log_probs] == [3, 3]
