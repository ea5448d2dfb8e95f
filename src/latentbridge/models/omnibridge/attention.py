"""T5 attention over a few samples at a time; its backward pass recomputes the attention weights instead of storing them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

CHUNKED = "latentbridge_chunked"
"""The `attn_implementation` under which transformers knows `chunked_attention`."""
_CHUNK_SCORES = 1 << 21
"""Attention scores computed at a time, of one sample or more: 8 MiB in float32."""


def chunked_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, *, position_bias: Tensor, **_: Any
) -> tuple[Tensor, None]:
    """Compute transformers' eager T5 attention chunk by chunk: [b h n d], [b h m d] twice -> [b n h d].

    `position_bias` [1|b 1|h 1|n m] is learned, so on a CPU torch's `scaled_dot_product_attention` would write out all
    scores. Although the backward pass recomputes them, both passes together take 0.7 of eager's time in float32 and 0.6
    in bfloat16, because a chunk stays in the processor's cache (8 samples, 32 heads, 256 by 256; one thread with AMX,
    2026-11-28). T5 does not scale scores, and the aligner has no dropout.
    """
    return _ChunkedAttention.apply(query, key, value, position_bias), None


AttentionInterface.register(CHUNKED, chunked_attention)


class _ChunkedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value, bias)
        output = query.new_empty(query.transpose(1, 2).shape)
        for chunk in _chunks(query, key):
            weights = _attention_weights(query[chunk], key[chunk], _bias_of(bias, chunk))
            output[chunk] = (weights.to(value.dtype) @ value[chunk]).transpose(1, 2)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, bias = ctx.saved_tensors
        grad_query, grad_key, grad_value = (torch.empty_like(tensor) for tensor in (query, key, value))
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        for chunk in _chunks(query, key):
            weights = _attention_weights(query[chunk], key[chunk], _bias_of(bias, chunk))
            grad_chunk = grad_output[chunk].transpose(1, 2)
            grad_value[chunk] = weights.to(value.dtype).transpose(2, 3) @ grad_chunk
            grad_scores = (grad_chunk @ value[chunk].transpose(2, 3)).to(weights.dtype).mul_(weights)
            grad_scores.addcmul_(weights, grad_scores.sum(dim=-1, keepdim=True), value=-1)
            if grad_bias is not None:
                grad_bias_chunk = _bias_of(grad_bias, chunk)
                grad_bias_chunk += grad_scores.sum_to_size(grad_bias_chunk.shape)
            grad_scores = grad_scores.to(query.dtype)
            grad_query[chunk], grad_key[chunk] = grad_scores @ key[chunk], grad_scores.transpose(2, 3) @ query[chunk]
        return grad_query, grad_key, grad_value, grad_bias


def _chunks(query: Tensor, key: Tensor) -> Iterator[slice]:
    batch, heads, length, _ = query.shape
    step = max(1, _CHUNK_SCORES // (heads * length * key.shape[2]))
    return (slice(start, start + step) for start in range(0, batch, step))


def _bias_of(bias: Tensor, chunk: slice) -> Tensor:
    return bias if len(bias) == 1 else bias[chunk]


def _attention_weights(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
    """Return softmax(query @ key + bias) [b h n m] in the dtype of the bias."""
    scores = (query @ key.transpose(2, 3)).to(bias.dtype)  # a sum of two dtypes takes ten times as long
    return scores.add_(bias).softmax(dim=-1)
