"""Batch invariance: results that do not depend, to the last bit, on the other items of a batch."""

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
_MIN_ROWS = 4
_ROW_COUNTS = (4, 5, 7, 8, 11, 13, 16, 31, 50)
"""Batch sizes that `linears_agree` compares with a batch of 64."""


def make_batch_invariant(model: nn.Module) -> None:
    """Give every row of a batch the result it has alone, for batches of one shape and any number of rows.

    Libraries choose the order of summation by the batch size, and another order rounds differently. Measured on the
    shipped model, in float32 (docs/decisions/0010-own-engine.md): matrix products of 4 rows and more agree bit for bit,
    products of fewer do not, and convolutions differ at any batch size. So smaller products are padded to 4 rows, and
    convolutions run one picture at a time, which costs little; norms and lookups are by row anyway. Sequences of different
    lengths are not batched, or padded by a rule that looks at one alone. Several threads split products by the number of
    rows, so this process computes on one thread from here on.

    On Intel processors rows agree from 4 on only if MKL was put in its strict mode before its first product, as the CLI
    does (`cli/serving.py`). If they do not agree, a warning is logged.
    """
    torch.set_num_threads(1)
    for module in model.modules():
        for kind, name, wrapper in _WRAPPERS:
            if isinstance(module, kind) and not isinstance(method := getattr(module, name), partial):  # not wrapped yet
                setattr(module, name, partial(wrapper, method))
    if not linears_agree(model):
        _log.warning(
            "On this processor the last bits of an answer depend on the other items of its batch;"
            " on Intel processors set MKL_CBWR=AUTO,STRICT before Python starts."
        )


def linears_agree(model: nn.Module) -> bool:
    """Return whether rows of the model's linear layers have the same result in any batch of 4 rows or more."""
    linears = {module.weight.shape: module for module in model.modules() if isinstance(module, nn.Linear)}
    with torch.no_grad():
        for linear in linears.values():
            rows = torch.linspace(-1, 1, 64 * linear.in_features).sin().view(64, -1).to(linear.weight)
            expected = linear(rows)
            if not all(torch.equal(linear(rows[:count]), expected[:count]) for count in _ROW_COUNTS):
                return False
    return True


def _pad_rows(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call a function of rows [... d] with at least `_MIN_ROWS` of them."""
    rows = x.numel() // x.shape[-1]
    if rows >= _MIN_ROWS:
        return forward(x)
    flat = pad(x.reshape(rows, x.shape[-1]), (0, 0, 0, _MIN_ROWS - rows))
    return forward(flat)[:rows].unflatten(0, x.shape[:-1])


def _pad_batch(forward: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Call a function of tensors [b ...] with a batch of at least `_MIN_ROWS`, the last item repeated."""
    rows = next(len(x) for x in inputs if isinstance(x, Tensor))
    if rows >= _MIN_ROWS:
        return forward(*inputs)

    def padded(x: Any) -> Any:
        return torch.cat([x, x[-1:].expand(_MIN_ROWS - rows, *x.shape[1:])]) if isinstance(x, Tensor) else x

    return forward(*map(padded, inputs))[:rows]


def _one_by_one(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([forward(row[None]) for row in x])


_WRAPPERS: tuple[tuple[type[nn.Module], str, Callable[..., Tensor]], ...] = (
    (nn.Linear, "forward", _pad_rows),
    (nn.Conv2d, "forward", _one_by_one),
    (EfficientNetLite0, "forward", _one_by_one),
    (HunyuanDiTAttentionPool, "forward", _pad_batch),
    (RetrievalHead, "forward", _pad_batch),
    (AuxiliaryEmbedding, "project", _pad_batch),
)
"""Wrappers by class and method; modules with matrix products outside `nn.Linear` are wrapped as a whole."""
