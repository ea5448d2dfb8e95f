"""Whether an index holds what it should and finds what is best."""

from __future__ import annotations

from itertools import islice

import numpy as np

from latentbridge.retrieval.index import Health, Index
from latentbridge.retrieval.rows import combine
from latentbridge.rng import numpy_rng

_K = 10
_TIE = 1e-6
"""Scores this close are the same: it does not count which of two equally good items is found."""
_READ = 100_000
"""Ids a sample is drawn from, the first ones: enough for a share, and not all in memory."""


def health(index: Index, sample: int = 100) -> Health:
    """Faults of what is stored, and the recall@10 of `sample` queries, each a stored vector moved towards another.

    A query that is itself stored would be found too easily.
    """
    ids = list(islice(index.ids(), _READ))
    if not ids:
        return Health(len(index), tuple(index.faults()), 1.0, 0)
    rng = numpy_rng(0, "index check")
    chosen, others = (rng.integers(len(ids), size=min(sample, len(ids))) for _ in range(2))
    queries = combine([index.vectors([ids[i] for i in places]) for places in (chosen, others)], [0.8, 0.2])
    return Health(len(index), tuple(index.faults()), recall(index, queries), len(queries))


def recall(index: Index, queries: np.ndarray) -> float:
    """Share of the ten best items of each query, float [n, dimension], that `index.search` finds."""
    found, best = index.search(queries, _K), index.search(queries, _K, exact=True)
    least = [row[-1].score - _TIE for row in best]
    good = sum(hit.score >= limit for row, limit in zip(found, least, strict=True) for hit in row)
    return good / sum(len(row) for row in best)
