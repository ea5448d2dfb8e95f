"""Vectors sorted into cells around centres (an inverted file), as 8-bit copies, by faiss: quick candidates, no truth.

A search looks into the cells nearest to the query. What was removed since they were made is left out by whoever asks. Their
file can be deleted at any time; a new one is made from the items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentbridge.files import atomic_write

PER_CENTRE = 40
"""Vectors a centre is learned from; faiss warns below 39."""
WIDTHS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""How many cells a search may look into; more find more and take longer."""
_NAME = "cells-{last_key:012d}-{width}.faiss"


def available() -> bool:
    """Whether faiss is installed."""
    return find_spec("faiss") is not None


def centres_for(count: int) -> int:
    """How many cells so many vectors are sorted into: as many as make finding a cell and looking into some cost alike."""
    return round(4 * count**0.5)


class Selection(NamedTuple):
    """Some keys out of all."""

    bits: np.ndarray
    """uint8: bit i, counted from each byte's lowest, is set where key i is among them."""
    share: float
    """How many of the vectors they are."""


class IVFLists:
    """Vectors by key; any number of threads may ask for candidates, none while vectors are taken in."""

    def __init__(self, index: Any, last_key: int = 0, width: int = WIDTHS[0]) -> None:
        self._index = index
        self.last_key = last_key
        """The largest key in them."""
        self.width = width

    @classmethod
    def learn(cls, sample: np.ndarray, centres: int) -> IVFLists:
        """Empty cells around so many centres of a sample, float32 [n, dimension]."""
        import faiss

        index = faiss.index_factory(sample.shape[1], f"IVF{centres},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = PER_CENTRE  # pyright: ignore[reportAttributeAccessIssue]
        index.train(sample)
        return cls(index)

    @classmethod
    def load(cls, folder: Path) -> IVFLists | None:
        """The newest cells kept in a folder; None where there are none that can be read."""
        if not available():
            return None
        import faiss

        for path in sorted(folder.glob("cells-*.faiss"), reverse=True):
            try:
                return cls(faiss.read_index(str(path)), *map(int, path.stem.split("-")[1:]))
            except RuntimeError:  # cut short, or of another version: as if it were not there
                continue
        return None

    def save(self, folder: Path) -> None:
        """Keep them in a folder, in place of those that were there; the file's name says what they cover."""
        import faiss

        path = folder / _NAME.format(last_key=self.last_key, width=self.width)
        with atomic_write(path) as temporary:
            faiss.write_index(self._index, str(temporary))
        for other in folder.glob("cells-*.faiss"):
            if other != path:
                other.unlink(missing_ok=True)

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def centres(self) -> int:
        """How many cells there are."""
        return self._index.nlist

    def extend(self, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Take in keys, int64 [n], larger than all before, with their vectors, float32 [n, dimension]."""
        for keys, vectors in rows:
            self._index.add_with_ids(vectors, keys)
            self.last_key = int(keys[-1])

    def settle(self, good: Callable[[], bool]) -> None:
        """Take the smallest width with which searches are good, the largest where none is."""
        for self.width in WIDTHS:
            if good():
                return

    def selection(self, among: np.ndarray | None = None, without: np.ndarray | None = None) -> Selection:
        """The keys of `among`, or all, but those of `without`."""
        chosen = np.full(self.last_key + 1, among is None)
        if among is not None:
            chosen[among[among <= self.last_key]] = True
        if without is not None:
            chosen[without] = False
        return Selection(np.packbits(chosen, bitorder="little"), np.count_nonzero(chosen) / max(1, len(self)))

    def candidates(self, queries: np.ndarray, count: int, chosen: Selection | None = None) -> np.ndarray:
        """int64 [n, count]: keys likely to be among the best for each query, -1 where there are no more.

        Only of a selection where one is given: the smaller its share, the more cells are looked into.
        """
        import faiss

        if chosen is None:
            self._index.nprobe = self.width
            return self._index.search(queries, count)[1]
        wider = round(self.width / max(chosen.share, 1e-9))
        options: dict[str, Any] = {"nprobe": min(max(wider, self.width), self.centres)}
        options["sel"] = faiss.IDSelectorBitmap(chosen.bits)  # pyright: ignore
        return self._index.search(queries, count, params=faiss.SearchParametersIVF(**options))[1]
