"""Pairs of near-duplicate items of an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.filters import Condition

_NUM_NEIGHBORS = 11
"""Neighbours searched per item, the item itself included."""
_BATCH = 256


def find_near_duplicates(
    index: Index, threshold: float, where: Sequence[Condition] = ()
) -> Iterator[tuple[str, str, float]]:
    """Yield each pair of items with a cosine of at least `threshold` once, the item added first in front.

    Searches ten neighbours per item: with more copies than that, each is in some pair, but not paired with every other.
    """
    positions = {name: number for number, name in enumerate(index.ids(where))}
    names, seen = list(positions), set[tuple[int, int]]()
    remaining = iter(names)
    while batch := list(islice(remaining, _BATCH)):
        for name, hits in zip(batch, index.search(index.vectors(batch), _NUM_NEIGHBORS, where), strict=True):
            for hit in hits:
                if hit.score < threshold or hit.id == name or hit.id not in positions:
                    continue
                pair = min(positions[name], positions[hit.id]), max(positions[name], positions[hit.id])
                if pair not in seen:  # the neighbour relation is not symmetric
                    seen.add(pair)
                    yield names[pair[0]], names[pair[1]], hit.score
