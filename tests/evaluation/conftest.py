from __future__ import annotations

import pytest

from latentbridge.data.pairs import Pair
from latentbridge.data.shapes.language import describe
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.rng import numpy_rng


@pytest.fixture(scope="session")
def seven_pairs() -> list[Pair]:
    """Scenes of four things each, so that halving them twice is exact; the question is how many there are."""
    result = distinct_scenes("test", numpy_rng(0, "seven pairs"), 7, num_things=4)
    return [Pair(render(s), describe(s), "How many objects are there?", "4", s) for s in result]
