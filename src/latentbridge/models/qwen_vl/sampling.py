"""Sampling of replies from a Qwen-VL with a KV cache, and their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from latentbridge.models.left_padding import IGNORE_INDEX
from latentbridge.models.options import ReplyOptions, finish_reply
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.models.qwen_vl.generation import SeenTokens
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.token_sampling import choose
from latentbridge.types import Conversation, Reply


@dataclass(frozen=True)
class Replies:
    """r replies of at most t tokens; the copies of one prompt are consecutive."""

    tokens: Tensor
    """int64 [r t]; padding after the end of the turn."""
    mask: Tensor
    """bool [r t]; True at sampled tokens, including the end of the turn."""
    log_probs: Tensor
    """float32 [r t]; of each sampled token at the sampling temperature; 0 if greedy and after the end."""
    ended: Tensor
    """bool [r]; True if the turn ended within the token limit."""


def generate_replies(
    backbone: QwenVL,
    conversations: Sequence[Conversation],
    options: ReplyOptions,
    generators: Sequence[torch.Generator] | None = None,
) -> list[Reply]:
    """Return the reply to each conversation; greedy, or sampled with one generator per conversation."""
    prompts = backbone.tokenize(conversations, open_ended=True, pad="left")
    replies = sample_replies(backbone, prompts, options, generators)
    return [
        finish_reply(
            backbone.tokenizer,
            tokens[mask].tolist(),
            backbone.end_ids,
            options,
            log_probs.tolist() if options.temperature else (),
            skip_special_tokens=False,  # the markers of a description to draw
        )
        for tokens, mask, log_probs in zip(replies.tokens, replies.mask, replies.log_probs, strict=True)
    ]


@torch.no_grad()
def sample_replies(
    backbone: QwenVL,
    prompts: TokenBatch,
    options: ReplyOptions,
    generators: Sequence[torch.Generator] | None = None,
    copies: int = 1,
) -> Replies:
    """Sample `copies` replies to each prompt; greedy, or with one generator per reply.

    Prompts are open-ended, left-padded, and prefilled once. A reply does not depend on the others.
    """
    inputs = backbone.inputs(prompts)
    output = backbone.model.model(**inputs, use_cache=True)
    cache, states = output.past_key_values, output.last_hidden_state[:, -1].repeat_interleave(copies, dim=0)
    if copies > 1:
        cache.batch_repeat_interleave(copies)
    next_position = (inputs["position_ids"].amax(dim=(0, 2)) + 1).repeat_interleave(copies)
    mask = prompts.attention_mask.repeat_interleave(copies, dim=0)
    finished = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    prompt_ids = prompts.input_ids.repeat_interleave(copies, dim=0)
    seen = SeenTokens(options, prompt_ids, mask, backbone.model.lm_head.out_features)
    ends = torch.tensor(backbone.end_ids, device=mask.device)
    tokens: list[Tensor] = []
    log_probs: list[Tensor] = []
    sampled: list[Tensor] = []
    while True:
        token, log_prob = choose(seen.penalize(backbone.model.lm_head(states).float()), options, generators)
        tokens.append(torch.where(finished, backbone.padding, token))
        log_probs.append(log_prob.masked_fill(finished, 0.0))
        sampled.append(~finished)
        finished = finished | torch.isin(tokens[-1], ends)
        seen.add(tokens[-1])
        if len(tokens) == options.max_tokens or bool(finished.all()):
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
    """Return the log-probabilities of the replies' tokens, float32 [r t], in one teacher-forced pass; 0 outside the mask.

    Gradients pass through. The vision tower encodes each prompt's picture once.
    """
    copies = len(replies.tokens) // len(prompts.input_ids)
    image_embeddings = None
    if prompts.pixel_values is not None:
        pictures = backbone.image_embedding_list(prompts)
        image_embeddings = torch.cat([picture for picture in pictures for _ in range(copies)])
    batch = _append_replies(prompts, replies, copies)
    start = prompts.input_ids.shape[1] - 1
    hidden = backbone.hidden(batch, image_embeddings)[:, start:-1]
    logits = backbone.model.lm_head(hidden[replies.mask]).float()
    log_probs = (logits / temperature).log_softmax(dim=-1).gather(1, replies.tokens[replies.mask][:, None])[:, 0]
    return torch.zeros_like(replies.log_probs).masked_scatter(replies.mask, log_probs)


def _append_replies(prompts: TokenBatch, replies: Replies, copies: int) -> TokenBatch:
    """Concatenate prompts and replies into one batch without labels and pictures, which are encoded separately."""

    def concatenate(prompt: Tensor, reply: Tensor) -> Tensor:
        return torch.cat([prompt.repeat_interleave(copies, dim=0), reply.to(prompt.dtype)], dim=1)

    ids = concatenate(prompts.input_ids, replies.tokens)
    grid = prompts.image_grid_thw
    return replace(
        prompts,
        input_ids=ids,
        attention_mask=concatenate(prompts.attention_mask, replies.mask),
        image_mask=concatenate(prompts.image_mask, torch.zeros_like(replies.mask)),
        labels=torch.full_like(ids, IGNORE_INDEX),
        weights=torch.zeros(ids.shape, device=ids.device),
        pixel_values=None,
        image_grid_thw=None if grid is None else grid.repeat_interleave(copies, dim=0),
    )
