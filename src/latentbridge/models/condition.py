"""The conditioning inputs of a decoder: hidden states alone, or both text inputs of a released HunyuanDiT."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

from torch import Tensor


class HunyuanCondition(NamedTuple):
    """Both text inputs of HunyuanDiT, named as in diffusers; masked positions are replaced by learned padding."""

    encoder_hidden_states: Tensor
    """[b m e]: states of the bilingual CLIP text encoder."""
    text_embedding_mask: Tensor
    """int64 [b m]."""
    encoder_hidden_states_t5: Tensor
    """[b n d]: states of mT5, or the aligner's output instead; the pooled vector includes masked positions."""
    text_embedding_mask_t5: Tensor
    """int64 [b n]."""


Condition = Tensor | HunyuanCondition
"""Unmasked states [b n d] for `encoder_hidden_states_t5`, without CLIP states; or both text inputs."""


def map_condition(function: Callable[..., Tensor], *conditions: Condition) -> Condition:
    """Apply `function` to the tensors of conditions of one type."""
    if isinstance(conditions[0], HunyuanCondition):
        pairs = zip(*cast(tuple[HunyuanCondition, ...], conditions), strict=True)
        return HunyuanCondition(*(function(*tensors) for tensors in pairs))
    return function(*conditions)
