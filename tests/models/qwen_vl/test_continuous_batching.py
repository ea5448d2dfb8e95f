from __future__ import annotations

import numpy as np
import pytest
import torch

from latentbridge.errors import UserError
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.continuous_batching import ContinuousBatch, SamplingParams
from latentbridge.models.qwen_vl.sampling import generate_replies
from latentbridge.types import Conversation

LENGTH, MOST = 97, 11


@pytest.fixture
def talks(three_pictures: list[np.ndarray]) -> list[Conversation]:
    asked = (("What?", three_pictures[0]), ("How many objects are there?", None), ("Why is it so?", three_pictures[1]))
    return [Conversation(((text, ""),), picture) for text, picture in asked]


def write(slots: ContinuousBatch, talks: list[Conversation], come: dict[int, list[int]], temperature: float = 0.0):
    """Replies of `MOST` tokens at most, to the talks that come at each step."""
    replies: dict[int, list[int]] = {}
    seats: dict[int, int] = {}
    for step in range(max(come) + MOST + 1):
        for talk in come.get(step, ()):
            how = SamplingParams(temperature, torch.Generator().manual_seed(talk))
            (slot,) = slots.add([slots.tokenize(talks[talk])], [how])
            seats[slot], replies[talk] = talk, []
        for slot, token in slots.step().items():
            reply = replies[seats[slot]]
            reply.append(token)
            if token == slots.backbone.end_of_turn or len(reply) == MOST:
                slots.release(slot)
                del seats[slot]
    assert not seats and slots.free_slots == 5
    return replies


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_a_reply_is_the_same_whoever_sits_beside_it(
    small_model: OmniBridge, talks: list[Conversation], temperature: float
):
    slots = ContinuousBatch(small_model.backbone, 5, LENGTH)
    alone = {k: write(slots, talks, {0: [k]}, temperature)[k] for k in range(3)}
    assert len({tuple(reply) for reply in alone.values()}) == 3
    assert write(slots, talks, {0: [2], 1: [0], 4: [1]}, temperature) == alone
    assert write(slots, talks, {0: [1, 2, 0]}, temperature) == alone


def test_replies_are_those_of_the_library(small_model: OmniBridge, talks: list[Conversation]):
    slots = ContinuousBatch(small_model.backbone, 5, LENGTH)
    for k, talk in enumerate(talks):
        written = small_model.backbone.decode(torch.tensor([write(slots, talks, {0: [k]})[k]]))
        assert written == generate_replies(small_model.backbone, [talk], max_tokens=MOST)


def test_prompts_of_one_shape_are_read_at_once(small_model: OmniBridge, talks: list[Conversation]):
    slots = ContinuousBatch(small_model.backbone, 5, LENGTH)
    pair = [Conversation((("Why is it?", ""),), talks[0].picture), talks[2]]
    together = slots.add([slots.tokenize(talk) for talk in pair], [SamplingParams(), SamplingParams()])
    first = slots.step()
    for slot in together:
        slots.release(slot)
    for slot, talk in zip(together, pair, strict=True):
        (alone,) = slots.add([slots.tokenize(talk)], [SamplingParams()])
        assert slots.step()[alone] == first[slot]
        slots.release(alone)


def test_a_slot_is_full_at_its_length(small_model: OmniBridge, talks: list[Conversation]):
    backbone = small_model.backbone
    tokens = backbone.tokenize([talks[1]], open_ended=True).input_ids.shape[1]
    slots = ContinuousBatch(backbone, 1, tokens + 2)
    (slot,) = slots.add([slots.tokenize(talks[1])], [SamplingParams()])
    room = []
    for _ in range(3):
        slots.step()
        room.append(slots.has_room(slot))
    assert room == [True, True, False]
    with pytest.raises(UserError, match=f"{tokens - 1} are the most"):
        ContinuousBatch(backbone, 1, tokens).tokenize(talks[1])
