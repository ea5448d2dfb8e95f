"""A differentiable version of Qwen2-VL's image processor, which in transformers uses numpy and Pillow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize


def patchify(levels: Tensor, processor: Qwen2VLImageProcessorPil) -> tuple[Tensor, Tensor]:
    """Return pixel values and grid, as in `TokenBatch`, of pictures as float levels [b 3 h w] from 0 to 255.

    Resizing, if the processor would resize, is torch's bicubic, which may differ from Pillow's by two levels.
    """
    patch, merge = processor.patch_size, processor.merge_size
    b, _, height, width = levels.shape
    area = processor.size
    size = smart_resize(height, width, patch * merge, area["shortest_edge"], area["longest_edge"])
    if size != (height, width):
        levels = F.interpolate(levels, size, mode="bicubic", antialias=True).clamp(0, 255)
    mean, std = (levels.new_tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    rows, columns = size[0] // patch, size[1] // patch
    tiles = (levels / 255 - mean) / std
    tiles = tiles.view(b, 3, rows // merge, merge, patch, columns // merge, merge, patch)
    tiles = tiles.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    tiles = tiles.expand(*tiles.shape[:6], processor.temporal_patch_size, patch, patch)
    return tiles.reshape(b * rows * columns, -1), torch.tensor([[1, rows, columns]]).expand(b, -1)
