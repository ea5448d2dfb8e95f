from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from latentbridge.models.backbones.bagel.pictures import ResizeRule, bicubic, write_pictures, written_levels
from latentbridge.models.pixels import to_pixels


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((980, 980), (980, 980)),
        ((1024, 1024), (980, 980)),
        ((300, 500), (294, 504)),  # 21.4 and 35.7 patches
        ((100, 100), (224, 224)),
        ((490, 1960), (252, 980)),  # 245 px are 17.5 patches, to the even number
        ((20, 2000), (14, 980)),  # the shorter side may not reach its least
    ],
)
def test_sizes_are_multiples_of_the_patch_within_bounds(size: tuple[int, int], expected: tuple[int, int]):
    rule = ResizeRule(980, 224, 14)
    assert rule.size(*size) == expected and rule.size(*size[::-1]) == expected[::-1]


def test_pictures_of_too_many_pixels_shrink_by_the_authors_ratio():
    # 1806336 / (2000 * 2000) is 0.45, which the authors take of each side
    assert ResizeRule(4000, 100, 10).size(2000, 2000) == (900, 900)


def test_passes_follow_the_order_of_pillow_13():
    picture = np.random.default_rng(0).integers(0, 256, (150, 61, 3), np.uint8)

    def passes(*sizes: tuple[int, int]) -> np.ndarray:
        image = Image.fromarray(picture)
        for size in sizes:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return np.asarray(image)

    columns_first, rows_first = passes((61, 64), (32, 64)), passes((32, 150), (32, 64))
    assert not np.array_equal(columns_first, rows_first)
    assert np.array_equal(bicubic(picture, (64, 32)), columns_first)  # 86 rows and 29 columns fewer
    assert np.array_equal(bicubic(picture, (112, 42)), passes((42, 150), (42, 112)))  # 38 and 19: not more than twice


def test_levels_are_cut_off_and_pass_gradients():
    pixels = torch.tensor([-2.0, -1.0, -0.993, 0.0, 0.9999, 1.0, 3.0]).expand(1, 3, 1, 7).clone().requires_grad_()
    levels = written_levels(pixels)
    assert levels[0, 0, 0].tolist() == [0, 0, 0, 127, 254, 255, 255]
    levels.sum().backward()
    assert pixels.grad is not None and bool((pixels.grad == 127.5).all())
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    assert np.array_equal(write_pictures(to_pixels([picture]) + 1e-4)[0], picture)
