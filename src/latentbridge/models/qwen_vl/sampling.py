"""Replies sampled from a Qwen2-VL with a cache of keys and values, and how likely a model finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentbridge.models.left_padding import IGNORE_INDEX
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.types import Conversation


@dataclass(frozen=True)
class Replies:
    """r replies of at most t tokens; where several were asked for, those to one prompt follow each other."""

    tokens: Tensor
    """int64 [r t]; padding after the end of the turn."""
    mask: Tensor
    """bool [r t]; True at what was sampled, the end of the turn included."""
    log_probs: Tensor
    """float32 [r t]; of each token when it was sampled, at that temperature; 0 where greedy and after the end."""
    ended: Tensor
    """bool [r]; whether the turn ended before the tokens ran out."""


def generate_replies(
    backbone: QwenVL,
    conversations: Sequence[Conversation],
    *,
    max_tokens: int = 128,
    temperature: float = 0.0,
    generators: Sequence[torch.Generator] | None = None,
) -> list[str]:
    """The model's reply to each conversation; greedy, or sampled at `temperature` with one generator a conversation."""
    prompts = backbone.tokenize(conversations, open_ended=True, pad="left")
    replies = sample_replies(backbone, prompts, max_tokens=max_tokens, temperature=temperature, generators=generators)
    return backbone.decode(replies.tokens)


@torch.no_grad()
def sample_replies(
    backbone: QwenVL,
    prompts: TokenBatch,
    *,
    copies: int = 1,
    max_tokens: int,
    temperature: float = 0.0,
    generators: Sequence[torch.Generator] | None = None,
) -> Replies:
    """`copies` replies to each prompt, which is read once; greedy, or at `temperature` with one generator a reply.

    The prompts are open-ended and padded on the left. A reply does not depend on the others.
    """
    inputs = backbone.inputs(prompts)
    output = backbone.model.model(**inputs, use_cache=True)
    cache, states = output.past_key_values, output.last_hidden_state[:, -1].repeat_interleave(copies, dim=0)
    if copies > 1:
        cache.batch_repeat_interleave(copies)
    next_position = (inputs["position_ids"].amax(dim=(0, 2)) + 1).repeat_interleave(copies)
    mask = prompts.attention_mask.repeat_interleave(copies, dim=0)
    finished = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    tokens: list[Tensor] = []
    log_probs: list[Tensor] = []
    sampled: list[Tensor] = []
    while True:
        logits = backbone.model.lm_head(states).float()
        chosen, log_prob = _choose(logits, temperature, generators)
        tokens.append(torch.where(finished, backbone.padding, chosen))
        log_probs.append(log_prob.masked_fill(finished, 0.0))
        sampled.append(~finished)
        finished = finished | (tokens[-1] == backbone.end_of_turn)
        if len(tokens) == max_tokens or bool(finished.all()):
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        output = backbone.model.model(
            input_ids=tokens[-1][:, None],
            attention_mask=mask,
            position_ids=next_position[None, :, None].expand(3, -1, 1),
            past_key_values=cache,
            use_cache=True,
        )
        states, next_position = output.last_hidden_state[:, -1], next_position + 1
    return Replies(
        torch.stack(tokens, dim=1), torch.stack(sampled, dim=1), torch.stack(log_probs, dim=1), ended=finished
    )


def reply_log_probs(backbone: QwenVL, prompts: TokenBatch, replies: Replies, temperature: float) -> Tensor:
    """The log-probability of each token of the replies, float32 [r t] with gradients, in one teacher-forced pass; 0 outside the mask.

    Pictures pass the vision tower once a prompt.
    """
    copies = len(replies.tokens) // len(prompts.input_ids)
    seen = None
    if prompts.pixel_values is not None:
        pictures = backbone.image_embedding_list(prompts)
        seen = torch.cat([picture for picture in pictures for _ in range(copies)])
    whole = _joined(prompts, replies, copies)
    start = prompts.input_ids.shape[1] - 1
    hidden = backbone.hidden(whole, seen)[:, start:-1]
    logits = backbone.model.lm_head(hidden[replies.mask]).float()
    found = (logits / temperature).log_softmax(dim=-1).gather(1, replies.tokens[replies.mask][:, None])[:, 0]
    return torch.zeros_like(replies.log_probs).masked_scatter(replies.mask, found)


def _joined(prompts: TokenBatch, replies: Replies, copies: int) -> TokenBatch:
    """Prompts and replies as one batch without labels; the pictures are left out, for they are read apart."""

    def beside(left: Tensor, right: Tensor) -> Tensor:
        return torch.cat([left.repeat_interleave(copies, dim=0), right.to(left.dtype)], dim=1)

    ids = beside(prompts.input_ids, replies.tokens)
    grid = prompts.image_grid_thw
    return replace(
        prompts,
        input_ids=ids,
        attention_mask=beside(prompts.attention_mask, replies.mask),
        image_mask=beside(prompts.image_mask, torch.zeros_like(replies.mask)),
        labels=torch.full_like(ids, IGNORE_INDEX),
        weights=torch.zeros(ids.shape, device=ids.device),
        pixel_values=None,
        image_grid_thw=None if grid is None else grid.repeat_interleave(copies, dim=0),
    )


def _choose(logits: Tensor, temperature: float, generators: Sequence[torch.Generator] | None) -> tuple[Tensor, Tensor]:
    """Tokens [r] and their log-probabilities [r]; a greedy choice is certain. Generators live on the CPU."""
    if temperature == 0.0:
        return logits.argmax(dim=-1), logits.new_zeros(len(logits))
    assert generators is not None, "sampling needs one generator a reply"
    probabilities = (logits / temperature).softmax(dim=-1)
    chosen = sample_tokens(probabilities, generators)
    return chosen, probabilities.gather(1, chosen[:, None])[:, 0].log()


def sample_tokens(probabilities: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One token a row, [r v] -> int64 [r], by one number of the row's own generator, which lives on the CPU.

    It is the token in whose share of the row's sum the number falls. torch.multinomial draws a number for every token of the
    vocabulary, which took a third of the time of sampling.
    """
    sums = probabilities.double().cumsum(dim=-1)
    fallen = torch.cat([torch.rand(1, generator=generator) for generator in generators]).to(sums)
    return torch.searchsorted(sums, fallen[:, None] * sums[:, -1:], right=True)[:, 0]
