from __future__ import annotations

import numpy as np
import pytest

from latentbridge.data.drawings.palette import COLOUR_WORDS, measure_colours, name_colours
from latentbridge.data.shapes.scenes import COLOURS


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        *((rgb, word) for word, rgb in COLOURS.items()),
        ((255, 170, 190), "pink"),
        ((225, 60, 150), "pink"),
        ((120, 70, 30), "brown"),
        ((255, 255, 255), "white"),
        ((128, 128, 128), "gray"),
        ((0, 0, 0), "black"),
        ((255, 0, 8), "red"),
    ],
)
def test_plain_colours_have_their_name(rgb, word):
    assert COLOUR_WORDS[name_colours(np.array([rgb], dtype=np.uint8))[0]] == word


def test_shares_are_of_the_opaque_area_without_small_ones():
    picture = np.zeros((10, 10, 4), dtype=np.uint8)
    picture[:5, :, :] = (220, 40, 40, 255)
    picture[:2, :, :3] = (45, 80, 210)
    picture[4, :3, :3] = (50, 160, 60)  # 3 of 50 pixels
    picture[9] = (50, 160, 60, 90)  # mostly transparent
    assert measure_colours(picture) == (("red", 0.54), ("blue", 0.4))
    assert measure_colours(np.zeros((4, 4, 4), dtype=np.uint8)) == ()
