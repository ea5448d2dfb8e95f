from __future__ import annotations

import numpy as np
import pytest
import torch

from latentbridge.models.pixels import quantized_levels, to_pictures, to_pixels


def test_pictures_come_back_from_pixels():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), np.uint8)
    pixels = to_pixels(pictures)
    assert pixels.shape == (2, 3, 3, 5) and pixels.min() >= -1 and pixels.max() <= 1
    assert float(pixels[1, 2, 0, 4]) == pytest.approx(pictures[1, 0, 4, 2] / 127.5 - 1, abs=1e-6)
    assert np.array_equal(to_pictures(pixels), pictures)


def test_levels_are_what_is_stored_and_the_gradient_passes_straight():
    pixels = torch.tensor([-1.5, -1.0, 0.0, 0.501, 1.0, 2.0]).expand(1, 3, 1, 6).clone().requires_grad_()
    levels = quantized_levels(pixels)
    stored = np.stack(to_pictures(pixels.detach()))
    assert stored[0, 0, :, 0].tolist() == [0, 0, 128, 191, 255, 255]  # 127.5 rounds to even
    assert np.abs(levels.detach()[0, 0, 0].numpy() - stored[0, 0, :, 0]).max() < 1e-4  # float32 rounding of 255
    levels.sum().backward()
    assert torch.equal(pixels.grad, torch.full_like(pixels, 127.5))
