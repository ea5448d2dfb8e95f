"""Brute-force cosine search over vectors in memory, NumPy only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK_ROWS = 8192
_MAX_SCORES = 1 << 24
"""Scores computed at a time: 64 MiB."""
_FEW_QUERIES = 8
"""Up to here, one matrix-vector product per query is faster than one matrix product."""
_GROUP = 64
"""Scores per group when the k-th best of many is bounded by group maxima."""


class VectorRows:
    """Unit vectors in memory by increasing integer keys; appending never copies earlier rows.

    One thread may append and discard while others search. A search sees an append completely or not at all, and at least one
    of a row and its replacement, if the replacement is appended before the row is discarded.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._blocks: list[_Block] = []
        self._count = 0
        self.num_discarded = 0
        """Rows that still take memory but are never found."""

    def __len__(self) -> int:
        return self._count

    def append(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Add vectors, float32 [n, dimension], under keys, int64 [n], larger than all before."""
        start = self._count
        while len(keys):
            number, offset = divmod(start, _BLOCK_ROWS)
            if number == len(self._blocks):
                self._blocks.append(_Block(self.dimension))
            block, size = self._blocks[number], min(_BLOCK_ROWS - offset, len(keys))
            rows = slice(offset, offset + size)
            block.keys[rows], block.vectors[rows], block.valid[rows] = keys[:size], vectors[:size], True
            keys, vectors, start = keys[size:], vectors[size:], start + size
        self._count = start

    def discard(self, keys: np.ndarray) -> None:
        """Exclude rows from all later searches; unknown keys are ignored."""
        for block, rows in self._locate(np.sort(keys)):
            self.num_discarded += int(np.count_nonzero(block.valid[rows]))
            block.valid[rows] = False

    def search(
        self, queries: np.ndarray, k: int, among: np.ndarray | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return keys and float64 scores of the `k` best rows per query, best first; only of `among` (sorted) if given.

        Candidates come from float32 matrix products and are rescored in float64 row by row, so results do not depend on
        the other queries of a batch. Equal scores are ordered by key.
        """
        selected = list(self._select(among))
        if not selected:
            return [(np.empty(0, np.int64), np.empty(0)) for _ in queries]
        keys = np.concatenate([block.keys[rows] for block, rows in selected])
        step = max(1, _MAX_SCORES // len(keys))
        results = []
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            scores = np.concatenate([block.products(part, rows) for block, rows in selected], axis=1)
            results += [self._rescore(query, row, keys, k) for query, row in zip(part, scores, strict=True)]
        return results

    def gather(self, keys: np.ndarray) -> np.ndarray:
        """Return float32 [n, dimension]: the vectors of sorted keys, all of which must exist."""
        parts = [block.vectors[rows] for block, rows in self._locate(keys)]
        return np.concatenate([np.empty((0, self.dimension), np.float32), *parts])

    def _used_blocks(self) -> Iterator[tuple[int, _Block]]:
        number = 0
        while number * _BLOCK_ROWS < self._count:  # which may grow meanwhile
            yield number, self._blocks[number]
            number += 1

    def _size(self, number: int) -> int:
        """Return how many rows of a block are in use by now."""
        return min(_BLOCK_ROWS, self._count - number * _BLOCK_ROWS)

    def _locate(self, keys: np.ndarray) -> Iterator[tuple[_Block, np.ndarray]]:
        """Yield each block with the row numbers of the sorted keys in it; unknown keys are ignored."""
        for number, block in self._used_blocks():
            block_keys = block.keys[: self._size(number)]
            inside = keys[np.searchsorted(keys, block_keys[0]) : np.searchsorted(keys, block_keys[-1], side="right")]
            rows = np.searchsorted(block_keys, inside)
            yield block, rows[block_keys[rows] == inside]

    def _select(self, among: np.ndarray | None) -> Iterator[tuple[_Block, np.ndarray | slice]]:
        """Yield each block with the row numbers to score; a slice, which copies nothing, if it is all of them."""
        if among is not None:
            valid_rows = ((block, rows[block.valid[rows]]) for block, rows in self._locate(among))
            yield from ((block, rows) for block, rows in valid_rows if len(rows))
            return
        for number, block in self._used_blocks():
            # The valid rows are copied before their number is read, block by block: the replacement of a row discarded by then
            # is in a later row and so is seen. `flatnonzero` reads its input twice, between which other threads may discard.
            valid = block.valid.copy()
            size = self._size(number)
            rows = np.flatnonzero(valid[:size])
            if len(rows):
                yield block, rows if len(rows) < size else slice(size)

    def _rescore(
        self, query: np.ndarray, scores: np.ndarray, keys: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the exact top `k` given float32 scores [n], whose error is below `dimension` units in the last place."""
        margin = 2 * self.dimension * float(np.finfo(np.float32).eps)
        candidates = keys[scores >= _top_k_threshold(scores, min(k, len(scores))) - margin]
        return exact_top_k(query, candidates, self.gather(candidates), k)


class _Block:
    """Storage for `_BLOCK_ROWS` rows."""

    def __init__(self, dimension: int) -> None:
        self.keys = np.zeros(_BLOCK_ROWS, np.int64)
        self.vectors = np.empty((_BLOCK_ROWS, dimension), np.float32)
        self.valid = np.zeros(_BLOCK_ROWS, bool)

    def products(self, queries: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        """Return float32 [q, n]: the dot products of queries and rows.

        `vecdot` with one query at a time runs at memory bandwidth, as faiss' flat index does; BLAS' matrix-vector product takes
        1.5 times as long (20,000 by 320, one thread, 2 AMD EPYC cores, 2026-11-24). If most rows are selected, computing
        all of them is cheaper than copying the selected ones.
        """
        if isinstance(rows, np.ndarray) and len(rows) > _BLOCK_ROWS // 2:
            return self.products(queries, slice(rows[-1] + 1))[:, rows]
        vectors = self.vectors[rows]
        return np.vecdot(queries[:, None], vectors) if len(queries) <= _FEW_QUERIES else queries @ vectors.T


def _top_k_threshold(scores: np.ndarray, k: int) -> float:
    """Return a score that at least `k` and few more of the scores [n] reach: the k-th best of the maxima of groups."""
    groups = min(len(scores), max(8 * k, len(scores) // _GROUP))
    maxima = scores[: len(scores) // groups * groups].reshape(-1, groups).max(axis=0)
    return float(np.partition(maxima, groups - k)[groups - k])


def exact_top_k(query: np.ndarray, keys: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return keys and float64 scores of the `k` best rows, best first; equal scores in the order of their sorted keys."""
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    order = np.argsort(-scores, kind="stable")[:k]
    return keys[order], scores[order]
