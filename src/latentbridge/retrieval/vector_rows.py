"""Exact cosine search over rows of memory that grow without ever being copied; NumPy only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latentbridge.errors import UserError

_UNIT_TOLERANCE = 1e-3
"""Largest deviation from length 1; vectors normalised in float32 are 1e-6 off, in bfloat16 3e-3, which is refused."""
_BLOCK_ROWS = 8192
_BLOCK_SCORES = 1 << 24
"""Scores held at a time: 64 MiB."""
_FEW_QUERIES = 8
"""Up to here, products of rows and one query at a time are quicker than one product of matrices."""
_GROUP = 64
"""Scores of which the best stands for all when the best of many are looked for."""


class VectorRows:
    """Unit vectors under whole numbers, which only ever grow.

    One thread may append and discard while others search: a search sees an append wholly or not at all, and where rows were
    appended in place of others that were then discarded, at least one of the two.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._blocks: list[_Block] = []
        self._count = 0
        self.discarded = 0
        """Rows that take room and are never found again."""

    def __len__(self) -> int:
        return self._count

    def append(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Take in vectors, float32 [n, dimension], under keys, int64 [n], that are larger than all before."""
        start = self._count
        for taken in range(0, len(keys), _BLOCK_ROWS):
            part = slice(taken, taken + _BLOCK_ROWS)
            start = self._put(start, keys[part], vectors[part])
        self._count = start

    def discard(self, keys: np.ndarray) -> None:
        """Never find these again."""
        for block, places in self._places(np.sort(keys)):
            self.discarded += int(np.count_nonzero(block.alive[places]))
            block.alive[places] = False

    def search(
        self, queries: np.ndarray, k: int, among: np.ndarray | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Keys and float64 scores of the `k` best rows for each query, best first; of `among` (sorted) alone where given.

        Candidates come from float32 matrix products and are scored again in float64, row by row, so neither ranks nor
        scores depend on which queries share a batch. Equal scores keep the order of the keys.
        """
        chosen = list(self._chosen(among))
        if not chosen:
            return [(np.empty(0, np.int64), np.empty(0)) for _ in queries]
        keys = np.concatenate([block.keys[places] for block, places in chosen])
        step = max(1, _BLOCK_SCORES // len(keys))
        found = []
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            rough = np.concatenate([block.products(part, places) for block, places in chosen], axis=1)
            found += [self._best(query, row, keys, k) for query, row in zip(part, rough, strict=True)]
        return found

    def take(self, keys: np.ndarray) -> np.ndarray:
        """float32 [n, dimension]: the vectors under sorted keys, all of which there are."""
        parts = [block.vectors[places] for block, places in self._places(keys)]
        return np.concatenate([np.empty((0, self.dimension), np.float32), *parts])

    def _put(self, start: int, keys: np.ndarray, vectors: np.ndarray) -> int:
        """Write at most a block of rows from the `start`-th on; where the next ones go."""
        number, place = divmod(start, _BLOCK_ROWS)
        if number == len(self._blocks):
            self._blocks.append(_Block(self.dimension))
        block, room = self._blocks[number], _BLOCK_ROWS - place
        head = min(room, len(keys))
        block.keys[place : place + head] = keys[:head]
        block.vectors[place : place + head] = vectors[:head]
        block.alive[place : place + head] = True
        return start + head if head == len(keys) else self._put(start + head, keys[head:], vectors[head:])

    def _filled(self) -> Iterator[tuple[_Block, int]]:
        """Every block and how many rows of it count."""
        number = 0
        while number * _BLOCK_ROWS < self._count:  # which may grow meanwhile
            yield self._blocks[number], self._used(number)
            number += 1

    def _used(self, number: int) -> int:
        """How many rows of a block count by now."""
        return min(_BLOCK_ROWS, self._count - number * _BLOCK_ROWS)

    def _places(self, keys: np.ndarray) -> Iterator[tuple[_Block, np.ndarray]]:
        """Where sorted keys stand, block by block; keys that are nowhere are passed over."""
        for block, used in self._filled():
            known = block.keys[:used]
            inside = keys[np.searchsorted(keys, known[0]) : np.searchsorted(keys, known[-1], side="right")]
            places = np.searchsorted(known, inside)
            yield block, places[known[places] == inside]

    def _chosen(self, among: np.ndarray | None) -> Iterator[tuple[_Block, np.ndarray | slice]]:
        """Which rows to score, block by block; a slice, which copies nothing, where it is all of them."""
        if among is not None:
            places = ((block, found[block.alive[found]]) for block, found in self._places(among))
            yield from ((block, found) for block, found in places if len(found))
            return
        for number, (block, _) in enumerate(self._filled()):
            # Who lives is noted before how many there are, and both block by block: a row that takes the place of one that was
            # gone by then is further on, and so is seen. flatnonzero itself looks twice, between which others may go.
            alive = block.alive.copy()
            used = self._used(number)
            places = np.flatnonzero(alive[:used])
            if len(places):
                yield block, places if len(places) < used else slice(used)

    def _best(self, query: np.ndarray, rough: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The exact top `k` from float32 scores [n], which err by less than `dimension` units in the last place."""
        margin = 2 * self.dimension * float(np.finfo(np.float32).eps)
        candidates = keys[rough >= _reached(rough, min(k, len(rough))) - margin]
        return exact_top_k(query, candidates, self.take(candidates), k)


class _Block:
    """Room for `_BLOCK_ROWS` rows."""

    def __init__(self, dimension: int) -> None:
        self.keys = np.zeros(_BLOCK_ROWS, np.int64)
        self.vectors = np.empty((_BLOCK_ROWS, dimension), np.float32)
        self.alive = np.zeros(_BLOCK_ROWS, bool)

    def products(self, queries: np.ndarray, places: np.ndarray | slice) -> np.ndarray:
        """float32 [q, n]: the dots of queries and rows.

        One query at a time they are read at the speed of memory, as faiss' flat index does; BLAS' own product of a matrix and
        a vector takes 1.5 times as long (20,000 by 320, one thread, 2 AMD EPYC cores, 2026-11-24). Where most rows are
        wanted, leaving some out afterwards is less than copying the others.
        """
        if isinstance(places, np.ndarray) and len(places) > _BLOCK_ROWS // 2:
            return self.products(queries, slice(places[-1] + 1))[:, places]
        rows = self.vectors[places]
        return np.vecdot(queries[:, None], rows) if len(queries) <= _FEW_QUERIES else queries @ rows.T


def _reached(scores: np.ndarray, k: int) -> float:
    """A score [n] that at least `k` reach, and few besides: the k-th best of groups' best ones, each a score of its own."""
    groups = min(len(scores), max(8 * k, len(scores) // _GROUP))
    best = scores[: len(scores) // groups * groups].reshape(-1, groups).max(axis=0)
    return float(np.partition(best, groups - k)[groups - k])


def exact_top_k(query: np.ndarray, keys: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` best of some rows by their float64 scores, best first; equal ones in the order of their sorted keys."""
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    order = np.argsort(-scores, kind="stable")[:k]
    return keys[order], scores[order]


def checked(vectors: np.ndarray, dimension: int) -> np.ndarray:
    """Unit vectors as float32 [n, dimension]; raises UserError for anything else."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise UserError(
            f"This index holds vectors of {dimension} numbers, not arrays of shape {list(vectors.shape)}; "
            "use the model it was built with."
        )
    if not np.isfinite(vectors).all():
        raise UserError("A vector holds NaN or infinity; look at the model or the data that made it.")
    if np.abs(np.linalg.norm(vectors, axis=1) - 1).max(initial=0) > _UNIT_TOLERANCE:
        raise UserError("Vectors must have length 1; divide each by its norm first.")
    return vectors


def combine_vectors(vectors: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """A query of several: the unit vector along their weighted sum, float32 [d] or [n, d].

    Takes unit vectors [d] or [n, d]. A weight below 0 leads away from a vector. The sum is the usual training-free baseline
    of composed retrieval.
    """
    mixed = np.sum(
        [weight * np.asarray(vector, np.float32) for weight, vector in zip(weights, vectors, strict=True)], 0
    )
    norm = np.linalg.norm(mixed, axis=-1, keepdims=True)
    if not np.isfinite(norm).all() or (norm < _UNIT_TOLERANCE).any():
        raise UserError("The parts of the query cancel each other out; choose other weights.")
    return (mixed / norm).astype(np.float32)
