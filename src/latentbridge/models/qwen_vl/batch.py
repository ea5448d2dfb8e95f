"""The input batch of a Qwen2-VL."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class TokenBatch:
    """A batch of tokenized conversations, padded on one side."""

    input_ids: Tensor
    """int64 [b s]."""
    attention_mask: Tensor
    """int64 [b s]; 1 at real tokens."""
    image_mask: Tensor
    """bool [b s]; True at image tokens."""
    labels: Tensor
    """int64 [b s]; the token at positions of replies, -100 elsewhere."""
    weights: Tensor
    """float32 [b s]; loss weights: one over the square root of the reply's length, 0 without a label."""
    pixel_values: Tensor | None
    """float32 [patches, 3 * temporal * patch * patch], all pictures concatenated."""
    image_grid_thw: Tensor | None
    """int64 [pictures, 3]."""
    position_ids: Tensor | None = None
    """int64 [4 b s] for packed rows: the index within the conversation, then the three of M-RoPE."""
