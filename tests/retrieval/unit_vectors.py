"""Unit vectors and small indexes that the tests of this folder share."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from latentbridge.retrieval.base_index import Index

AnIndex = TypeVar("AnIndex", bound=Index)


def unit(rng: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """float32 [count, dimension], in every direction."""
    vectors = rng.normal(size=(count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def compass(index: AnIndex) -> AnIndex:
    """East, north and, at (.6, .8), north-east, in that order."""
    index.add(["east", "north"], np.array([[1, 0], [0, 1]]), [{"degrees": 90}, {"degrees": 0}])
    index.add(["north-east"], np.array([[0.6, 0.8]]))
    return index
