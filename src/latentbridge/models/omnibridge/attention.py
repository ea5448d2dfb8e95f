"""T5's attention, which keeps queries, keys and values for the way back and never all scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface
from transformers.models.t5.modeling_t5 import eager_attention_forward

CHUNKED = "latentbridge_lean"
"""The name under which transformers' layers know `chunked_attention`."""
_SCORES = 1 << 21
"""Scores held at a time, of at least one sample: 8 MiB in float32."""


def chunked_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    position_bias: Tensor,
    scaling: float = 1.0,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """transformers' eager attention of T5 with the scores of a few samples at a time: [b h n d], [b h m d] twice -> [b n h d].

    `position_bias` [1|b 1|h 1|n m] learns, wherefore torch's own fused attention writes all scores out on a CPU, too. On the way
    back scores are computed again, and still it takes .7 of eager's time in float32 and .6 in bfloat16, there and back, for
    they stay in the processor's cache (8 samples, 32 heads, 256 by 256; one thread with AMX, 2026-11-28). Where weights are
    dropped out, the library's is what runs.
    """
    if dropout or scaling != 1.0 or attention_mask is not None:
        return eager_attention_forward(
            module, query, key, value, attention_mask, scaling, dropout, position_bias, **more
        )
    return _Lean.apply(query, key, value, position_bias), None


AttentionInterface.register(CHUNKED, chunked_attention)


class _Lean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value, bias)
        output = query.new_empty(query.transpose(1, 2).shape)
        for part in _parts(query, key):
            weights = _weights(query[part], key[part], _of(bias, part))
            output[part] = (weights.to(value.dtype) @ value[part]).transpose(1, 2)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias = ctx.saved_tensors
        to_query, to_key, to_value = (torch.empty_like(each) for each in (query, key, value))
        to_bias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        for part in _parts(query, key):
            weights = _weights(query[part], key[part], _of(bias, part))
            coming = gradient[part].transpose(1, 2)
            to_value[part] = weights.to(value.dtype).transpose(2, 3) @ coming
            moved = (coming @ value[part].transpose(2, 3)).to(weights.dtype).mul_(weights)
            scores = moved.addcmul_(weights, moved.sum(dim=-1, keepdim=True), value=-1)
            if to_bias is not None:
                there = _of(to_bias, part)
                there += scores.sum_to_size(there.shape)
            scores = scores.to(query.dtype)
            to_query[part], to_key[part] = scores @ key[part], scores.transpose(2, 3) @ query[part]
        return to_query, to_key, to_value, to_bias


def _parts(query: Tensor, key: Tensor) -> Iterator[slice]:
    """So many samples at a time."""
    batch, heads, length, _ = query.shape
    step = max(1, _SCORES // (heads * length * key.shape[2]))
    return (slice(start, start + step) for start in range(0, batch, step))


def _of(bias: Tensor, part: slice) -> Tensor:
    return bias if len(bias) == 1 else bias[part]


def _weights(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """What is read of each key, [b h n m], in the dtype of the bias."""
    scores = (query @ key.transpose(2, 3)).to(bias.dtype)  # a sum of two dtypes takes ten times as long
    return scores.add_(bias).softmax(dim=-1)
