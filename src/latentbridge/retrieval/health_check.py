"""Whether an index holds what it should and finds what is best."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from latentbridge.retrieval.base_index import HealthReport, Index
from latentbridge.rng import numpy_rng

LEAST_RECALL = 0.95
"""What searches promise, unless they are told otherwise."""
_K = 10
_TIE = 1e-6
"""Scores this close are the same: it does not count which of two equally good items is found."""
_READ = 100_000
"""Ids a sample is drawn from, the first ones: enough for a share, and not all in memory."""
_CLOSE, _FAR = 0.8, 0.2
"""Cosines between a stored vector and a query. Pictures are close to pictures; words are far from all of them (0.17 on
average between the shipped model's vector of a drawn scene and that of its description, 2026-11-23), and what is far from
everything is what cells find worst."""


def check_health(index: Index, sample: int = 100) -> HealthReport:
    """Faults of what is stored, and the recall@10 of sampled queries, one half as pictures are and one as words are."""
    ids = list(islice(index.ids(), _READ))
    faults = tuple(index.faults())
    if not ids:
        return HealthReport(len(index), faults, 1.0, 0)
    chosen = numpy_rng(0, "index check").permutation(len(ids))[:sample]
    vectors = index.vectors([ids[i] for i in chosen])
    queries = np.concatenate([_moved(vectors[::2], _CLOSE), _moved(vectors[1::2], _FAR)])
    found, best = index.search(queries, _K), index.search(queries, _K, exact=True)
    scores = ([np.array([hit.score for hit in row]) for row in rows] for rows in (found, best))
    return HealthReport(len(index), faults, recall_at_k(*scores), len(queries))


def words_like(vectors: np.ndarray) -> np.ndarray:
    """Queries, float32 [n, dimension], that lie to stored vectors as words lie to pictures."""
    return _moved(vectors, _FAR)


def recall_at_k(found: Sequence[np.ndarray], best: Sequence[np.ndarray]) -> float:
    """Share of each query's best items that were found, by the scores of both, best first."""
    good = sum(int((row >= least[-1] - _TIE).sum()) for row, least in zip(found, best, strict=True) if len(least))
    return good / max(1, sum(map(len, best)))


def _moved(vectors: np.ndarray, cosine: float) -> np.ndarray:
    """Unit vectors at a cosine from those given, float32 [n, dimension], each in a random direction."""
    noise = numpy_rng(0, "moved queries").normal(size=vectors.shape)
    noise -= (noise * vectors).sum(axis=1, keepdims=True) * vectors
    noise /= np.maximum(np.linalg.norm(noise, axis=1, keepdims=True), 1e-12)
    moved = cosine * vectors + np.sqrt(1 - cosine**2) * noise
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
