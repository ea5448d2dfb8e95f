"""IVF lists (inverted file index) of 8-bit vectors by faiss, for approximate candidates.

A search scans the lists of the nearest centroids. The caller excludes items that were removed since. The file is a cache: it can
be deleted at any time and rebuilt from the items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from latentbridge.files import atomic_write

SAMPLES_PER_CENTROID = 40
"""Training vectors per centroid; faiss warns below 39."""
NPROBES = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""Choices for the number of lists that a search scans."""
_FILES = "cells-*.faiss"


def faiss_available() -> bool:
    """Return whether faiss is installed."""
    return find_spec("faiss") is not None


def num_lists_for(count: int) -> int:
    """Return the number of lists for `count` vectors that balances the cost of finding lists and of scanning them."""
    return round(4 * count**0.5)


class KeyMask(NamedTuple):
    """A subset of the keys."""

    bits: np.ndarray
    """uint8 bitmap, little-endian bit order: bit i is set if key i is in the subset."""
    fraction: float
    """Size of the subset relative to all vectors."""


class IVFLists:
    """Vectors by key in IVF lists; any number of threads may search, none while vectors are added."""

    def __init__(self, index: Any, last_key: int = 0, nprobe: int = NPROBES[0]) -> None:
        self._index = index
        self.last_key = last_key
        """The largest key added."""
        self.nprobe = nprobe
        """Number of lists that a search scans."""

    @classmethod
    def train(cls, sample: np.ndarray, num_lists: int) -> IVFLists:
        """Return empty lists with centroids trained on a sample, float32 [n, dimension]."""
        import faiss

        index = faiss.index_factory(sample.shape[1], f"IVF{num_lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = SAMPLES_PER_CENTROID  # pyright: ignore[reportAttributeAccessIssue]
        index.train(sample)
        return cls(index)

    @classmethod
    def load(cls, folder: Path) -> IVFLists | None:
        """Load the newest readable file of a folder; None without one, or without faiss."""
        if not faiss_available():
            return None
        import faiss

        for path in sorted(folder.glob(_FILES), reverse=True):
            try:
                return cls(faiss.read_index(str(path)), *map(int, path.stem.split("-")[1:]))
            except RuntimeError:  # truncated, or written by another version
                continue
        return None

    def save(self, folder: Path) -> None:
        """Write to a folder, replacing older files; the file name holds `last_key` and `nprobe`."""
        import faiss

        path = folder / f"cells-{self.last_key:012d}-{self.nprobe}.faiss"
        with atomic_write(path) as temporary:
            faiss.write_index(self._index, str(temporary))
        for other in folder.glob(_FILES):
            if other != path:
                other.unlink(missing_ok=True)

    @staticmethod
    def delete(folder: Path) -> None:
        """Delete the files of a folder."""
        for path in folder.glob(_FILES):
            path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def num_lists(self) -> int:
        """Number of lists."""
        return self._index.nlist

    def extend(self, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Add keys, int64 [n], larger than all before, with their vectors, float32 [n, dimension]."""
        for keys, vectors in rows:
            self._index.add_with_ids(vectors, keys)
            self.last_key = int(keys[-1])

    def tune_nprobe(self, is_sufficient: Callable[[], bool]) -> None:
        """Set the smallest `nprobe` with which searches are sufficient, or the largest if none is."""
        for self.nprobe in NPROBES:
            if is_sufficient():
                return

    def mask(self, include: np.ndarray | None = None, exclude: np.ndarray | None = None) -> KeyMask:
        """Return the mask of the keys in `include` (all if None) without those in `exclude`."""
        selected = np.full(self.last_key + 1, include is None)
        if include is not None:
            selected[include[include <= self.last_key]] = True
        if exclude is not None:
            selected[exclude] = False
        return KeyMask(np.packbits(selected, bitorder="little"), np.count_nonzero(selected) / max(1, len(self)))

    def candidates(self, queries: np.ndarray, count: int, mask: KeyMask | None = None) -> np.ndarray:
        """Return int64 [n, count]: keys likely to be among the best per query, padded with -1.

        With a mask only its keys; the smaller its fraction, the more lists are scanned.
        """
        import faiss

        if mask is None:
            self._index.nprobe = self.nprobe
            return self._index.search(queries, count)[1]
        nprobe = round(self.nprobe / max(mask.fraction, 1e-9))
        options: dict[str, Any] = {"nprobe": min(max(nprobe, self.nprobe), self.num_lists)}
        options["sel"] = faiss.IDSelectorBitmap(mask.bits)  # pyright: ignore
        return self._index.search(queries, count, params=faiss.SearchParametersIVF(**options))[1]
