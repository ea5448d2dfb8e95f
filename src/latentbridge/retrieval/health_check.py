"""Health check of an index: integrity of the stored data, and recall of searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from latentbridge.retrieval.base_index import Index
from latentbridge.rng import numpy_rng

LEAST_RECALL = 0.95
"""Recall@10 that searches promise by default."""
TEXT_COSINE = 0.2
"""Cosine of a text-like query and the nearest stored vector: 0.17 on average between the shipped model's vectors of a drawn
scene and of its description (2026-11-23). Queries far from all items are the hardest for IVF lists."""
_PICTURE_COSINE = 0.8
_K = 10
_TIE = 1e-6
"""Scores this close are equal: finding either of two equally good items counts."""
_MAX_IDS = 100_000
"""Ids that a sample is drawn from, which bounds memory."""


@dataclass(frozen=True)
class HealthReport:
    """Errors and measured recall of an index."""

    items: int
    errors: tuple[str, ...]
    recall: float
    """Share of the exact ten best items that approximate searches find."""
    queries: int
    """Number of sampled queries; 0 if the index is empty."""


def check_health(index: Index, sample: int = 100) -> HealthReport:
    """Return integrity errors and the recall@10 of sampled queries, half of them picture-like and half text-like."""
    ids = list(islice(index.ids(), _MAX_IDS))
    errors = tuple(index.check_integrity())
    if not ids:
        return HealthReport(len(index), errors, 1.0, 0)
    chosen = numpy_rng(0, "index check").permutation(len(ids))[:sample]
    vectors = index.vectors([ids[i] for i in chosen])
    queries = np.concatenate([perturb(vectors[::2], _PICTURE_COSINE), perturb(vectors[1::2], TEXT_COSINE)])
    scores, best_scores = (
        [np.array([hit.score for hit in hits]) for hits in index.search(queries, _K, exact=exact)]
        for exact in (False, True)
    )
    return HealthReport(len(index), errors, recall_at_k(scores, best_scores), len(queries))


def recall_at_k(scores: Sequence[np.ndarray], best_scores: Sequence[np.ndarray]) -> float:
    """Return the share of each query's best items that were found, given both's scores, best first."""
    hits = sum(int((row >= best[-1] - _TIE).sum()) for row, best in zip(scores, best_scores, strict=True) if len(best))
    return hits / max(1, sum(map(len, best_scores)))


def perturb(vectors: np.ndarray, cosine: float) -> np.ndarray:
    """Return unit vectors, float32 [n, dimension], at a given cosine from the originals, in random directions."""
    noise = numpy_rng(0, "moved queries").normal(size=vectors.shape)
    noise -= (noise * vectors).sum(axis=1, keepdims=True) * vectors
    noise /= np.maximum(np.linalg.norm(noise, axis=1, keepdims=True), 1e-12)
    perturbed = cosine * vectors + np.sqrt(1 - cosine**2) * noise
    return (perturbed / np.linalg.norm(perturbed, axis=1, keepdims=True)).astype(np.float32)
