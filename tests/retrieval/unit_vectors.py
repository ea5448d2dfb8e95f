"""Unit vectors and a small index for the tests of this folder."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from latentbridge.retrieval.base_index import Index

AnIndex = TypeVar("AnIndex", bound=Index)


def unit(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """Return float32 [count, dimension] in random directions."""
    vectors = rng.normal(size=(count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def compass(index: AnIndex) -> AnIndex:
    """Add east, north and, at (.6, .8), north-east, in that order, and return the index."""
    index.add(["east", "north"], np.array([[1, 0], [0, 1]]), [{"degrees": 90}, {"degrees": 0}])
    index.add(["north-east"], np.array([[0.6, 0.8]]))
    return index
