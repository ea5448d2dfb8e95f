from __future__ import annotations

import numpy as np
import pytest
import torch

from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.qwen_vl.sampling import (
    Replies,
    generate_replies,
    reply_log_probs,
    sample_replies,
    sample_tokens,
)
from latentbridge.types import Conversation

TEMPERATURE = 1.3


@pytest.fixture
def backbone(small_model: OmniBridge) -> QwenVL:
    return small_model.backbone


@pytest.fixture
def talks(three_pictures: list[np.ndarray]) -> list[Conversation]:
    """Prompts of three lengths, one without a picture."""
    asked = (("What?", three_pictures[0]), ("How many objects are there?", None), ("Why is it so?", three_pictures[1]))
    return [Conversation(((text, ""),), picture) for text, picture in asked]


def prompts_of(backbone: QwenVL, talks: list[Conversation]):
    return backbone.tokenize(talks, open_ended=True, pad="left")


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_copies_of_a_prompt_are_replies_of_their_own(backbone: QwenVL, talks: list[Conversation]):
    many = sample_replies(
        backbone, prompts_of(backbone, talks), copies=2, max_tokens=7, temperature=1.0, generators=seeded(*range(6))
    )
    texts = backbone.decode(many.tokens)
    assert len(texts) == 6 and len(set(texts)) > 4
    for index, text in enumerate(texts):
        alone = generate_replies(backbone, [talks[index // 2]], max_tokens=7, temperature=1.0, generators=seeded(index))
        assert alone == [text]


def test_what_was_sampled_is_as_likely_when_read_at_once(backbone: QwenVL, talks: list[Conversation]):
    prompts = prompts_of(backbone, talks)
    replies = sample_replies(
        backbone, prompts, copies=3, max_tokens=11, temperature=TEMPERATURE, generators=seeded(*range(9))
    )
    lengths = replies.mask.sum(dim=1)
    assert len(set(lengths.tolist())) > 2 and 0 < int(replies.ended.sum()) < 9
    found = reply_log_probs(backbone, prompts, replies, TEMPERATURE)
    # float32 rounding of another order of sums; log-probabilities are of order 5
    torch.testing.assert_close(found, replies.log_probs, atol=2e-5, rtol=0)
    assert (found[~replies.mask] == 0).all() and (found[replies.mask] < 0).all()
    assert not torch.allclose(reply_log_probs(backbone, prompts, replies, 1.0), found, atol=0.01)


def test_a_reply_ends_with_its_turn_or_not_at_all(backbone: QwenVL, talks: list[Conversation]):
    replies = sample_replies(
        backbone, prompts_of(backbone, talks), copies=3, max_tokens=11, temperature=1.0, generators=seeded(*range(9))
    )
    for tokens, mask, ended in zip(replies.tokens, replies.mask, replies.ended, strict=True):
        said = tokens[mask].tolist()
        assert bool(ended) == (said[-1] == backbone.end_of_turn)
        assert backbone.end_of_turn not in said[:-1]
        assert (tokens[~mask] == backbone.padding).all()
        assert mask.sort(descending=True).values.equal(mask), "nothing is sampled after the end"


def test_greedy_replies_are_certain(backbone: QwenVL, talks: list[Conversation]):
    assert (sample_replies(backbone, prompts_of(backbone, talks), max_tokens=5).log_probs == 0).all()


def test_groups_padded_together_have_the_gradients_of_groups_alone(backbone: QwenVL, talks: list[Conversation]):
    replies = sample_replies(
        backbone, prompts_of(backbone, talks), copies=2, max_tokens=5, temperature=1.0, generators=seeded(*range(6))
    )
    weights = [p for name, p in backbone.named_parameters() if "q_proj" in name or "merger" in name]

    def gradients(chosen: list[Conversation], rows: slice) -> list[torch.Tensor]:
        part = Replies(*(getattr(replies, name)[rows] for name in ("tokens", "mask", "log_probs", "ended")))
        return list(
            torch.autograd.grad(reply_log_probs(backbone, prompts_of(backbone, chosen), part, 1.0).sum(), weights)
        )

    # the one without a picture stands beside one with a picture, else the tower would have no gradient
    together, first, rest = (
        gradients(talks, slice(0, 6)),
        gradients(talks[:1], slice(0, 2)),
        gradients(talks[1:], slice(2, 6)),
    )
    for whole, one, others in zip(together, first, rest, strict=True):
        torch.testing.assert_close(whole, one + others, atol=1e-4, rtol=1e-3)
        assert whole.abs().amax() > 0.01


def test_tokens_are_drawn_as_often_as_they_are_likely():
    likely = torch.tensor([0.0, 0.5, 0.0, 0.2, 0.3, 0.0])
    drawn = sample_tokens(likely.expand(20_011, -1), seeded(*range(20_011)))
    often = torch.bincount(drawn, minlength=6) / 20_011
    assert (often[likely == 0] == 0).all()
    torch.testing.assert_close(often, likely, rtol=0, atol=0.014)  # four standard deviations of a share of one half


def test_what_cannot_be_is_not_drawn_at_the_ends_of_chance(monkeypatch: pytest.MonkeyPatch):
    rows = torch.tensor([[0.0, 0.7, 0.3, 0.0]])
    for number, token in ((0.0, 1), (1 - 2**-24, 2)):
        monkeypatch.setattr(torch, "rand", lambda *_, number=number, **__: torch.tensor([number]))
        assert sample_tokens(rows, seeded(0)).tolist() == [token]
