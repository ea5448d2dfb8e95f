"""Items of an index that are nearly the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.filters import Condition

_NEAREST = 11
"""How many neighbours of an item are looked at, the item itself among them."""
_BATCH = 256


def find_near_duplicates(
    index: Index, least: float, where: Sequence[Condition] = ()
) -> Iterator[tuple[str, str, float]]:
    """Pairs of items whose cosine is at least `least`, each pair once, the item that was added earlier first.

    Ten neighbours of each item are looked at: of more copies than that, each is in a pair, but not with every other.
    """
    place = {name: number for number, name in enumerate(index.ids(where))}
    names, told = list(place), set[tuple[int, int]]()
    waiting = iter(names)
    while batch := list(islice(waiting, _BATCH)):
        for name, hits in zip(batch, index.search(index.vectors(batch), _NEAREST, where), strict=True):
            for hit in hits:
                if hit.score < least or hit.id == name or hit.id not in place:
                    continue
                pair = min(place[name], place[hit.id]), max(place[name], place[hit.id])
                if pair not in told:  # the other may not have seen this one among its own nearest
                    told.add(pair)
                    yield names[pair[0]], names[pair[1]], hit.score
