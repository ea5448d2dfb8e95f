"""What makes an answer the same, to the last bit, whatever it is computed beside."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.embeddings import HunyuanDiTAttentionPool
from torch import Tensor, nn
from torch.nn.functional import pad

from latentbridge.models.eye import Eye
from latentbridge.models.retrieval_head import RetrievalHead

_LEAST_ROWS = 4


def make_rows_independent(model: nn.Module) -> None:
    """Give every row of a batch the result it has alone, for batches of one shape but any number of rows.

    A library picks its way of adding up by the size of the batch, and another way rounds otherwise. Measured on the
    shipped model, in float32 (docs/decisions/0010-own-engine.md): products of 4 rows and more agree bit for bit whatever
    their number, and of fewer they do not; convolutions differ at any. So products of fewer rows are filled up to 4,
    and convolutions take one picture at a time, which costs little; norms and lookups are by row anyway. Sequences of
    different lengths are not batched at all, or padded by a rule that looks at one alone.
    """
    for module in model.modules():
        if isinstance(module.forward, partial):  # done before
            continue
        for kind, way in _WAYS.items():
            if isinstance(module, kind):
                module.forward = partial(way, module.forward)


def _filled_rows(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A product by rows [... d], of at least 4 of them."""
    rows = x.numel() // x.shape[-1]
    if rows >= _LEAST_ROWS:
        return forward(x)
    flat = pad(x.reshape(rows, x.shape[-1]), (0, 0, 0, _LEAST_ROWS - rows))
    return forward(flat)[:rows].unflatten(0, x.shape[:-1])


def _filled_batch(forward: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """A module over tensors [b ...] that holds products by batch; the last of the batch is repeated."""
    rows = next(len(x) for x in inputs if isinstance(x, Tensor))
    if rows >= _LEAST_ROWS:
        return forward(*inputs)

    def filled(x: Any) -> Any:
        return torch.cat([x, x[-1:].expand(_LEAST_ROWS - rows, *x.shape[1:])]) if isinstance(x, Tensor) else x

    return forward(*map(filled, inputs))[:rows]


def _one_by_one(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([forward(row[None]) for row in x])


_WAYS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _filled_rows,
    nn.Conv2d: _one_by_one,
    Eye: _one_by_one,
    HunyuanDiTAttentionPool: _filled_batch,
    RetrievalHead: _filled_batch,
}
"""How modules are called; those that hold products of their own, outside `nn.Linear`, are called as a whole."""
