"""Decoding of replies by a language model of transformers from prompt embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latentbridge.models.left_padding import position_ids
from latentbridge.models.options import ReplyOptions
from latentbridge.models.token_sampling import Generators, choose


@torch.no_grad()
def decode_replies(
    language_model: Any,
    head: Callable[[Tensor], Tensor],
    embeds: Tensor,
    mask: Tensor,
    end_id: int,
    options: ReplyOptions,
    generators: Generators,
) -> list[tuple[list[int], list[float]]]:
    """Return the tokens after each left-padded prompt [b s h] with its mask [b s], and their log-probabilities.

    A row ends with `end_id` or after `options.max_tokens`; what follows the end in a row of the batch is left out.
    """
    positions, cache = position_ids(mask), None
    finished = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    tokens: list[Tensor] = []
    log_probs: list[Tensor] = []
    while len(tokens) < options.max_tokens and not bool(finished.all()):
        output = language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        cache = output.past_key_values
        token, log_prob = choose(head(output.last_hidden_state[:, -1]).float(), options, generators)
        tokens.append(token)
        log_probs.append(log_prob)
        finished |= token == end_id
        embeds = language_model.get_input_embeddings()(token[:, None])
        positions = mask.sum(1, keepdim=True)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    rows = zip(torch.stack(tokens, dim=1).tolist(), torch.stack(log_probs, dim=1).tolist(), strict=True)
    return [_until(end_id, ids, values) for ids, values in rows]


def _until(end_id: int, ids: list[int], log_probs: list[float]) -> tuple[list[int], list[float]]:
    """Return both up to the first `end_id`, which is kept."""
    count = ids.index(end_id) + 1 if end_id in ids else len(ids)
    return ids[:count], log_probs[:count]
