from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.options import ReplyOptions
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.qwen_vl.sampling import (
    Replies,
    generate_replies,
    reply_log_probs,
    sample_replies,
)
from latentbridge.models.token_sampling import sample_tokens
from latentbridge.types import Conversation

TEMPERATURE = 1.3


@pytest.fixture
def backbone(small_model: OmniBridge) -> QwenVL:
    return small_model.backbone


@pytest.fixture
def conversations(three_pictures: list[np.ndarray]) -> list[Conversation]:
    """Prompts of three lengths, one without a picture."""
    questions = (
        ("What?", three_pictures[0]),
        ("How many objects are there?", None),
        ("Why is it so?", three_pictures[1]),
    )
    return [Conversation.with_picture(((text, ""),), picture) for text, picture in questions]


def prompts_of(backbone: QwenVL, conversations: list[Conversation]):
    return backbone.tokenize(conversations, open_ended=True, pad="left")


def texts_of(*arguments: Any) -> list[str]:
    return [reply.text for reply in generate_replies(*arguments)]


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_copies_of_a_prompt_are_sampled_independently(backbone: QwenVL, conversations: list[Conversation]):
    many = sample_replies(
        backbone,
        prompts_of(backbone, conversations),
        ReplyOptions(7, temperature=1.0),
        seeded(*range(6)),
        copies=2,
    )
    texts = backbone.decode(many.tokens)
    assert len(texts) == 6 and len(set(texts)) > 4
    for index, text in enumerate(texts):
        alone = texts_of(backbone, [conversations[index // 2]], ReplyOptions(7, temperature=1.0), seeded(index))
        assert alone == [text]


def test_sampling_log_probs_equal_teacher_forced_ones(backbone: QwenVL, conversations: list[Conversation]):
    prompts = prompts_of(backbone, conversations)
    replies = sample_replies(backbone, prompts, ReplyOptions(11, TEMPERATURE), seeded(*range(9)), copies=3)
    lengths = replies.mask.sum(dim=1)
    assert len(set(lengths.tolist())) > 2 and 0 < int(replies.ended.sum()) < 9
    found = reply_log_probs(backbone, prompts, replies, TEMPERATURE)
    # float32 rounding of another order of sums; log-probabilities are of order 5
    torch.testing.assert_close(found, replies.log_probs, atol=2e-5, rtol=0)
    assert (found[~replies.mask] == 0).all() and (found[replies.mask] < 0).all()
    assert not torch.allclose(reply_log_probs(backbone, prompts, replies, 1.0), found, atol=0.01)


def test_a_reply_ends_with_its_turn_or_at_the_limit(backbone: QwenVL, conversations: list[Conversation]):
    replies = sample_replies(
        backbone,
        prompts_of(backbone, conversations),
        ReplyOptions(11, temperature=1.0),
        seeded(*range(9)),
        copies=3,
    )
    for tokens, mask, ended in zip(replies.tokens, replies.mask, replies.ended, strict=True):
        reply = tokens[mask].tolist()
        assert bool(ended) == (reply[-1] == backbone.end_of_turn)
        assert backbone.end_of_turn not in reply[:-1]
        assert (tokens[~mask] == backbone.padding).all()
        assert mask.sort(descending=True).values.equal(mask), "nothing is sampled after the end"


def test_greedy_log_probs_are_zero(backbone: QwenVL, conversations: list[Conversation]):
    assert (sample_replies(backbone, prompts_of(backbone, conversations), ReplyOptions(5)).log_probs == 0).all()


def test_gradients_do_not_depend_on_padding(backbone: QwenVL, conversations: list[Conversation]):
    replies = sample_replies(
        backbone,
        prompts_of(backbone, conversations),
        ReplyOptions(5, temperature=1.0),
        seeded(*range(6)),
        copies=2,
    )
    weights = [p for name, p in backbone.named_parameters() if "q_proj" in name or "merger" in name]

    def gradients(chosen: list[Conversation], rows: slice) -> list[torch.Tensor]:
        part = Replies(*(getattr(replies, name)[rows] for name in ("tokens", "mask", "log_probs", "ended")))
        return list(
            torch.autograd.grad(reply_log_probs(backbone, prompts_of(backbone, chosen), part, 1.0).sum(), weights)
        )

    # the one without a picture stands beside one with a picture, else the tower would have no gradient
    together, first, rest = (
        gradients(conversations, slice(0, 6)),
        gradients(conversations[:1], slice(0, 2)),
        gradients(conversations[1:], slice(2, 6)),
    )
    for whole, one, others in zip(together, first, rest, strict=True):
        torch.testing.assert_close(whole, one + others, atol=1e-4, rtol=1e-3)
        assert whole.abs().amax() > 0.01


def test_sampling_frequencies_match_the_probabilities():
    likely = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    drawn = sample_tokens(likely.expand(20_011, -1), seeded(*range(20_011)))
    often = torch.bincount(drawn, minlength=6) / 20_011
    assert (often[likely == 0] == 0).all()
    torch.testing.assert_close(often, likely, rtol=0, atol=0.014)  # four standard deviations of a share of one half


def test_tokens_of_probability_zero_are_never_sampled(monkeypatch: pytest.MonkeyPatch):
    rows = torch.tensor([[0.0, 0.7, 0.3, 0.0]])
    for number, token in ((0.0, 1), (1 - 2**-24, 2)):
        monkeypatch.setattr(torch, "rand", lambda *_, number=number, **__: torch.tensor([number]))
        assert sample_tokens(rows, seeded(0)).tolist() == [token]
