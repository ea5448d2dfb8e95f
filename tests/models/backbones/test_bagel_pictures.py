from __future__ import annotations

import pytest

from latentbridge.models.backbones.bagel.pictures import ResizeRule


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
