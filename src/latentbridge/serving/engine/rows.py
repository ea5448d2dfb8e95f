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
from latentbridge.models.omnibridge.retrieval_head import RetrievalHead
from latentbridge.models.omnibridge.second_view import SecondView

_LEAST_ROWS = 4


def make_rows_independent(model: nn.Module) -> None:
    """Give every row of a batch the result it has alone, for batches of one shape but any number of rows.

    A library picks its way of adding up by the size of the batch, and another way rounds otherwise. Measured on the
    shipped model, in float32 (docs/decisions/0010-own-engine.md): products of 4 rows and more agree bit for bit whatever
    their number, and of fewer they do not; convolutions differ at any. So products of fewer rows are filled up to 4,
    and convolutions take one picture at a time, which costs little; norms and lookups are by row anyway. Sequences of
    different lengths are not batched at all, or padded by a rule that looks at one alone. On several threads products are
    cut by the number of rows, too, and four rows no longer agree with eight; so this process computes on one from here on.
    """
    torch.set_num_threads(1)
    for module in model.modules():
        for kind, method, way in _WAYS:
            call = getattr(module, method, None)
            if isinstance(module, kind) and not isinstance(call, partial):  # which would have been done before
                setattr(module, method, partial(way, call))


def _filled_rows(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A product by rows [... d], of at least 4 of them."""
    rows = x.numel() // x.shape[-1]
    if rows >= _LEAST_ROWS:
        return forward(x)
    flat = pad(x.reshape(rows, x.shape[-1]), (0, 0, 0, _LEAST_ROWS - rows))
    return forward(flat)[:rows].unflatten(0, x.shape[:-1])


def _filled_batch(forward: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """A method over tensors [b ...] that holds products by batch; the last of the batch is repeated."""
    rows = next(len(x) for x in inputs if isinstance(x, Tensor))
    if rows >= _LEAST_ROWS:
        return forward(*inputs)

    def filled(x: Any) -> Any:
        return torch.cat([x, x[-1:].expand(_LEAST_ROWS - rows, *x.shape[1:])]) if isinstance(x, Tensor) else x

    return forward(*map(filled, inputs))[:rows]


def _one_by_one(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([forward(row[None]) for row in x])


_WAYS: tuple[tuple[type[nn.Module], str, Callable[..., Tensor]], ...] = (
    (nn.Linear, "forward", _filled_rows),
    (nn.Conv2d, "forward", _one_by_one),
    (Eye, "forward", _one_by_one),
    (HunyuanDiTAttentionPool, "forward", _filled_batch),
    (RetrievalHead, "forward", _filled_batch),
    (SecondView, "joined", _filled_batch),
)
"""How methods of modules are called; those that hold products of their own, outside `nn.Linear`, are called as a whole."""
