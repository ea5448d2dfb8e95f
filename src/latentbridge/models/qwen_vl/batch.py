"""Conversations as tensors: what a Qwen2-VL reads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class TokenBatch:
    """Conversations as tensors, padded on one side."""

    input_ids: Tensor
    """int64 [b s]."""
    attention_mask: Tensor
    """int64 [b s]; 1 at real tokens."""
    image_mask: Tensor
    """bool [b s]; True at image tokens."""
    labels: Tensor
    """int64 [b s]; the token at assistant positions, -100 elsewhere."""
    weights: Tensor
    """float32 [b s]; what a label counts: one over the root of its reply's length, 0 where there is no label."""
    pixel_values: Tensor | None
    """float32 [patches, 3 * temporal * patch * patch], all pictures one after another."""
    image_grid_thw: Tensor | None
    """int64 [pictures, 3]."""
    position_ids: Tensor | None = None
    """int64 [4 b s] where conversations share rows: the place in one's own conversation, then the three of M-RoPE."""
