from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from latentbridge.models.qwen_vl.patches import patchify

PICTURES = np.random.default_rng(0).integers(0, 256, (3, 20, 28, 3), np.uint8)
"""Pictures of 5 x 7 patches of 4 px; both stay prime with a merge size of 1."""
LEVELS = torch.from_numpy(PICTURES).permute(0, 3, 1, 2).float()


def processor(patch: int = 4, merge: int = 1, area: int = 20 * 28) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=merge, size={"shortest_edge": area, "longest_edge": area}
    )


def library(pictures: np.ndarray, process: Qwen2VLImageProcessorPil) -> tuple[Tensor, Tensor]:
    processed = process(images=list(pictures), return_tensors="pt", input_data_format="channels_last")
    return processed["pixel_values"], processed["image_grid_thw"]


@pytest.mark.parametrize(("patch", "merge"), [(4, 1), (2, 2)])
def test_patches_equal_the_processors(patch: int, merge: int):
    ours, theirs = patchify(LEVELS, processor(patch, merge)), library(PICTURES, processor(patch, merge))
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=2e-6)  # float32 rounding of values up to 3
    assert torch.equal(ours[1], theirs[1])
    assert not torch.allclose(patchify(LEVELS.mT.reshape(LEVELS.shape), processor(patch, merge))[0], theirs[0])


def test_resizing_matches_the_processor():
    smooth = np.linspace(0, 255, 3 * 20 * 28 * 3).reshape(3, 20, 28, 3).astype(np.uint8)
    shrinking = processor(4, 1, area=12 * 16)
    ours, theirs = patchify(torch.from_numpy(smooth).permute(0, 3, 1, 2).float(), shrinking), library(smooth, shrinking)
    assert torch.equal(ours[1], theirs[1]) and ours[1][0].tolist() != [1, 5, 7]
    assert (ours[0] - theirs[0]).abs().max() < 2 / 255 / 0.26  # two levels in units of the processor's spread


def test_gradients_reach_the_patchs_own_pixels():
    levels = LEVELS.clone().requires_grad_()
    values, _ = patchify(levels, processor())
    values[8].sum().backward()  # of the first picture's 5 x 7 patches the second row's second
    assert levels.grad is not None
    reached = levels.grad != 0
    assert reached.sum() == 3 * 4 * 4 and reached[0, :, 4:8, 4:8].all()
