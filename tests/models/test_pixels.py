from __future__ import annotations

import numpy as np
import pytest
import torch

from latentbridge.models.pixels import quantized_levels, to_pictures, to_pixels, truncated_levels, truncated_pictures


def test_pixels_convert_back_to_pictures():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 3), np.uint8)
    pixels = to_pixels(pictures)
    assert pixels.shape == (2, 3, 3, 5) and pixels.min() >= -1 and pixels.max() <= 1
    assert float(pixels[1, 2, 0, 4]) == pytest.approx(pictures[1, 0, 4, 2] / 127.5 - 1, abs=1e-6)
    assert np.array_equal(to_pictures(pixels), pictures)


def test_quantized_levels_equal_the_stored_values_with_a_straight_through_gradient():
    pixels = torch.tensor([-1.5, -1.0, 0.0, 0.501, 1.0, 2.0]).expand(1, 3, 1, 6).clone().requires_grad_()
    levels = quantized_levels(pixels)
    stored = np.stack(to_pictures(pixels.detach()))
    assert stored[0, 0, :, 0].tolist() == [0, 0, 128, 191, 255, 255]  # 127.5 rounds to even
    assert np.abs(levels.detach()[0, 0, 0].numpy() - stored[0, 0, :, 0]).max() < 1e-4  # float32 rounding of 255
    levels.sum().backward()
    assert torch.equal(pixels.grad, torch.full_like(pixels, 127.5))


def test_levels_are_cut_off_and_pass_gradients():
    pixels = torch.tensor([-2.0, -1.0, -0.993, 0.0, 0.9999, 1.0, 3.0]).expand(1, 3, 1, 7).clone().requires_grad_()
    levels = truncated_levels(pixels)
    assert levels[0, 0, 0].tolist() == [0, 0, 0, 127, 254, 255, 255]
    levels.sum().backward()
    assert pixels.grad is not None and bool((pixels.grad == 127.5).all())
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    assert np.array_equal(truncated_pictures(to_pixels([picture]) + 1e-4)[0], picture)
