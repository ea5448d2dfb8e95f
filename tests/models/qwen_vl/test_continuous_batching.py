from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from latentbridge.errors import UserError
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.options import ReplyOptions
from latentbridge.models.qwen_vl.continuous_batching import ContinuousBatch, SamplingParams
from latentbridge.models.qwen_vl.sampling import generate_replies
from latentbridge.types import Conversation

LENGTH, MOST = 97, 11


@pytest.fixture
def conversations(three_pictures: list[np.ndarray]) -> list[Conversation]:
    prompts = (
        ("What?", three_pictures[0]),
        ("How many objects are there?", None),
        ("Why is it so?", three_pictures[1]),
    )
    return [Conversation.with_picture(((text, ""),), picture) for text, picture in prompts]


def texts_of(*arguments: Any) -> list[str]:
    return [reply.text for reply in generate_replies(*arguments)]


def generate(
    slots: ContinuousBatch, conversations: list[Conversation], arrivals: dict[int, list[int]], temperature: float = 0.0
):
    """Return replies of at most `MOST` tokens to the conversations added at each step."""
    replies: dict[int, list[int]] = {}
    slot_of: dict[int, int] = {}
    for step in range(max(arrivals) + MOST + 1):
        for conversation in arrivals.get(step, ()):
            params = SamplingParams(ReplyOptions(temperature=temperature), torch.Generator().manual_seed(conversation))
            (slot,) = slots.add([slots.tokenize(conversations[conversation])], [params])
            slot_of[slot], replies[conversation] = conversation, []
        for slot, token in slots.step().items():
            reply = replies[slot_of[slot]]
            reply.append(token)
            if token == slots.backbone.end_of_turn or len(reply) == MOST:
                slots.release(slot)
                del slot_of[slot]
    assert not slot_of and slots.free_slots == 5
    return replies


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_a_reply_does_not_depend_on_other_slots(
    small_model: OmniBridge, conversations: list[Conversation], temperature: float
):
    slots = ContinuousBatch(small_model.backbone, 5, LENGTH)
    alone = {k: generate(slots, conversations, {0: [k]}, temperature)[k] for k in range(3)}
    assert len({tuple(reply) for reply in alone.values()}) == 3
    assert generate(slots, conversations, {0: [2], 1: [0], 4: [1]}, temperature) == alone
    assert generate(slots, conversations, {0: [1, 2, 0]}, temperature) == alone


def test_replies_equal_generate_replies(small_model: OmniBridge, conversations: list[Conversation]):
    slots = ContinuousBatch(small_model.backbone, 5, LENGTH)
    for k, conversation in enumerate(conversations):
        written = small_model.backbone.decode(torch.tensor([generate(slots, conversations, {0: [k]})[k]]))
        assert written == texts_of(small_model.backbone, [conversation], ReplyOptions(MOST))


def test_prompts_of_one_shape_are_prefilled_together(small_model: OmniBridge, conversations: list[Conversation]):
    slots = ContinuousBatch(small_model.backbone, 5, LENGTH)
    pair = [Conversation.with_picture((("Why is it?", ""),), conversations[0].all_pictures[0]), conversations[2]]
    together = slots.add([slots.tokenize(conversation) for conversation in pair], [SamplingParams(), SamplingParams()])
    first = slots.step()
    for slot in together:
        slots.release(slot)
    for slot, conversation in zip(together, pair, strict=True):
        (alone,) = slots.add([slots.tokenize(conversation)], [SamplingParams()])
        assert slots.step()[alone] == first[slot]
        slots.release(alone)


def test_a_slot_is_full_at_its_length(small_model: OmniBridge, conversations: list[Conversation]):
    backbone = small_model.backbone
    tokens = backbone.tokenize([conversations[1]], open_ended=True).input_ids.shape[1]
    slots = ContinuousBatch(backbone, 1, tokens + 2)
    (slot,) = slots.add([slots.tokenize(conversations[1])], [SamplingParams()])
    room = []
    for _ in range(3):
        slots.step()
        room.append(slots.has_room(slot))
    assert room == [True, True, False]
    with pytest.raises(UserError, match=f"{tokens - 1} are the most"):
        ContinuousBatch(backbone, 1, tokens).tokenize(conversations[1])
