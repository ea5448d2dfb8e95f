"""What makes an answer the same, to the last bit, whatever it is computed beside."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.embeddings import HunyuanDiTAttentionPool
from torch import Tensor, nn
from torch.nn.functional import pad

from latentbridge.models.efficientnet import EfficientNetLite0
from latentbridge.models.omnibridge.auxiliary_embedding import AuxiliaryEmbedding
from latentbridge.models.omnibridge.retrieval_head import RetrievalHead

_log = logging.getLogger(__name__)
_LEAST_ROWS = 4
_COUNTS = (4, 5, 7, 8, 11, 13, 16, 31, 50)
"""Of rows, that are held against each other to see whether a processor keeps the promise."""


def make_batch_invariant(model: nn.Module) -> None:
    """Give every row of a batch the result it has alone, for batches of one shape but any number of rows.

    A library picks its way of adding up by the size of the batch, and another way rounds otherwise. Measured on the
    shipped model, in float32 (docs/decisions/0010-own-engine.md): products of 4 rows and more agree bit for bit whatever
    their number, and of fewer they do not; convolutions differ at any. So products of fewer rows are filled up to 4,
    and convolutions take one picture at a time, which costs little; norms and lookups are by row anyway. Sequences of
    different lengths are not batched at all, or padded by a rule that looks at one alone. On several threads products are
    cut by the number of rows, too, and four rows no longer agree with eight; so this process computes on one from here on.

    On Intel's processors rows agree from 4 on only where the library was told to be strict before its first product, as the
    CLI does (`cli/serving.py`). Where they do not agree, a warning says so.
    """
    torch.set_num_threads(1)
    for module in model.modules():
        for kind, method, way in _WAYS:
            call = getattr(module, method, None)
            if isinstance(module, kind) and not isinstance(call, partial):  # which would have been done before
                setattr(module, method, partial(way, call))
    if not products_agree(model):
        _log.warning(
            "On this processor an answer's last bits depend on what it is computed beside;"
            " set MKL_CBWR=AUTO,STRICT before Python starts, which mends it on Intel's."
        )


def products_agree(model: nn.Module) -> bool:
    """Whether rows of the model's linear layers have the same result in a batch of any number of rows from 4 on."""
    linears = {module.weight.shape: module for module in model.modules() if isinstance(module, nn.Linear)}
    with torch.no_grad():
        for linear in linears.values():
            rows = torch.linspace(-1, 1, 64 * linear.in_features).sin().view(64, -1).to(linear.weight)
            whole = linear(rows)
            if not all(torch.equal(linear(rows[:count]), whole[:count]) for count in _COUNTS):
                return False
    return True


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
    (EfficientNetLite0, "forward", _one_by_one),
    (HunyuanDiTAttentionPool, "forward", _filled_batch),
    (RetrievalHead, "forward", _filled_batch),
    (AuxiliaryEmbedding, "project", _filled_batch),
)
"""How methods of modules are called; those that hold products of their own, outside `nn.Linear`, are called as a whole."""
