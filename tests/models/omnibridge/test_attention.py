"""Attention that keeps no scores, held against the library's own that keeps them all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from transformers.models.t5.modeling_t5 import eager_attention_forward

from latentbridge.models.omnibridge import attention
from latentbridge.models.omnibridge.attention import chunked_attention

BATCH, HEADS, QUERIES, KEYS, WIDTH = 5, 3, 7, 11, 13
BIASES = [(1, HEADS, QUERIES, KEYS), (BATCH, HEADS, QUERIES, KEYS), (BATCH, 1, 1, KEYS), (1, 1, 1, KEYS)]
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # sums in another order, of values up to about 10


def attended(function: object, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """What is read, and the gradients of queries, keys, values and bias."""
    rng = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(BATCH, length, HEADS, WIDTH, generator=rng).to(dtype).transpose(1, 2).requires_grad_()
        for length in (QUERIES, KEYS, KEYS)
    )
    bias = torch.randn(shape, generator=rng)
    bias[0, :, :, 2] = torch.finfo(torch.float32).min
    coming = torch.randn(BATCH, QUERIES, HEADS, WIDTH, generator=rng).to(dtype)
    inputs = [query, key, value, bias.requires_grad_()]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = function(nn.Module(), *inputs[:3], None, position_bias=bias, scaling=1.0, dropout=0.0)[0]  # pyright: ignore
    return [output, *torch.autograd.grad(output, inputs, coming)]


@pytest.mark.parametrize("shape", BIASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("together", [1, 2, BATCH])
def test_it_reads_and_learns_as_the_librarys_does(
    shape: tuple[int, ...], dtype: torch.dtype, together: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attention, "_SCORES", together * HEADS * QUERIES * KEYS)
    lean, eager = (attended(function, shape, dtype) for function in (chunked_attention, eager_attention_forward))
    for mine, theirs in zip(lean, eager, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


def test_a_query_that_may_read_nothing_reads_all_alike():
    query, key, value = (torch.randn(1, 1, length, WIDTH) for length in (QUERIES, KEYS, KEYS))
    nothing = torch.full((1, 1, 1, KEYS), torch.finfo(torch.float32).min)
    read = chunked_attention(nn.Module(), query, key, value, None, position_bias=nothing)[0]
    torch.testing.assert_close(read[0, :, 0], value.mean(dim=2)[0].expand(QUERIES, WIDTH))


def test_no_scores_are_kept():
    query, key, value = (torch.randn(BATCH, HEADS, n, WIDTH, requires_grad=True) for n in (QUERIES, KEYS, KEYS))
    bias = torch.randn(1, HEADS, QUERIES, KEYS, requires_grad=True)
    kept: list[int] = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        chunked_attention(nn.Module(), query, key, value, None, position_bias=bias)
    assert sum(kept) == sum(each.numel() for each in (query, key, value, bias))


def test_weights_are_dropped_as_the_library_does():
    query, key, value = (torch.randn(BATCH, HEADS, n, WIDTH) for n in (QUERIES, KEYS, KEYS))
    bias, module = torch.zeros(1, 1, 1, KEYS), nn.Module().train()
    read = []
    for function in (chunked_attention, eager_attention_forward):
        torch.manual_seed(0)
        read.append(function(module, query, key, value, None, position_bias=bias, scaling=1.0, dropout=0.5)[0])
    assert torch.equal(*read) and not torch.equal(read[0], torch.zeros_like(read[0]))
