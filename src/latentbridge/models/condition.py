"""What a decoder reads beside the noise: states alone, or a released HunyuanDiT's two text slots."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

from torch import Tensor


class HunyuanCondition(NamedTuple):
    """Both text slots of HunyuanDiT; where a mask is 0 the decoder's learned padding stands instead."""

    states: Tensor
    """[b n d], the mT5 slot; pooled over all positions whatever the mask."""
    mask: Tensor
    """int64 [b n]."""
    clip: Tensor
    """[b m e], the CLIP slot."""
    clip_mask: Tensor
    """int64 [b m]."""


Condition = Tensor | HunyuanCondition
"""States [b n d] for the mT5 slot, all of them read and nothing else; or both slots."""


def map_condition(function: Callable[..., Tensor], *conditions: Condition) -> Condition:
    """`function` of conditions of one kind, tensor by tensor."""
    if isinstance(conditions[0], HunyuanCondition):
        return HunyuanCondition(
            *(function(*tensors) for tensors in zip(*cast(tuple[HunyuanCondition, ...], conditions), strict=True))
        )
    return function(*conditions)
