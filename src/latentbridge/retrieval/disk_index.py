"""The index in a folder: one SQLite file of items, and IVF lists beside it.

A small index is searched by brute force in memory. A large one has IVF lists, whose candidates are rescored with the exact
vectors of the file; items added after the lists were built are searched by brute force until `refresh` adds them. Both are
caches that follow the file, whichever process writes to it, and can be rebuilt from it at any time.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from latentbridge.errors import UserError
from latentbridge.retrieval.base_index import Index, to_hits
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.health_check import TEXT_COSINE, perturb, recall_at_k
from latentbridge.retrieval.item_database import ItemDatabase, Revision
from latentbridge.retrieval.ivf import SAMPLES_PER_CENTROID, IVFLists, KeyMask, faiss_available, num_lists_for
from latentbridge.retrieval.vector_rows import VectorRows, exact_top_k
from latentbridge.rng import numpy_rng
from latentbridge.types import Hit

FILE = "items.sqlite"
_OLD_FILE = "manifest.json"
IVF_MIN_ITEMS = 50_000
"""Items from which on IVF lists pay off (docs/decisions/0009-index.md)."""
_STALE_FRACTION = 0.05
"""Fraction of items that may be missing from the lists, or removed but still in them, before `refresh` updates them."""
_EXACT_FILTER_ITEMS = 5_000
"""A filter that leaves at most this many items is searched exactly."""
_TARGET_RECALL = 0.96
"""Recall@10 that `nprobe` is tuned for, a little above the promised 0.95."""
_NUM_TUNING_QUERIES = 100
_EXTRA_CANDIDATES = 4
"""Candidates beyond 1.25 k, since 8-bit scores order items only roughly: of 1,000 items that were the best ten in their lists, of
100,000 as the shipped model embeds them, 12 candidates missed none (2026-11-24)."""
_MAX_DISCARDED = 8192
"""Discarded rows kept in memory beyond the number of valid ones, before the rows are read anew."""

_Results = list[tuple[np.ndarray, np.ndarray]]
"""Per query: keys and exact scores, best first."""


class _ConcurrentChangeError(Exception):
    """Items were removed or replaced during a search."""


@dataclass
class _Cache:
    """The structures that searches use, and the revision of the file they represent."""

    revision: Revision
    rows: VectorRows
    """Items that are not in the lists; all items without lists."""
    lists: IVFLists | None = None
    removed: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """Keys in the lists that no longer exist."""
    mask: KeyMask | None = None
    """The keys in the lists without the removed ones; None if none were removed."""


class DiskIndex(Index):
    """An `Index` in a folder, for many readers and one writer at a time, in any number of processes."""

    def __init__(self, folder: Path) -> None:
        """Open an index; raises UserError if there is none."""
        self.folder = folder
        if not (folder / FILE).is_file():
            if (folder / _OLD_FILE).is_file():
                raise UserError(f"{folder} holds an index of an older version; delete the folder and build it again.")
            raise UserError(f"{folder} holds no index; build one with `latentbridge index build`.")
        self._items = ItemDatabase(folder / FILE)
        self.dimension, self.model_fingerprint = self._items.dimension, self._items.model_fingerprint
        self._lock = threading.Lock()
        self._cache: _Cache | None = None

    @classmethod
    def create(cls, folder: Path, dimension: int, model_fingerprint: str = "") -> DiskIndex:
        """Create an index, or open an existing one without any check."""
        if (folder / FILE).is_file() or not (folder / _OLD_FILE).is_file():
            ItemDatabase.create(folder / FILE, dimension, model_fingerprint).close()
        return cls(folder)

    def __len__(self) -> int:
        return len(self._items)

    def delete(self, ids: Sequence[str]) -> int:
        return self._items.delete(ids)

    def ids(self, where: Sequence[Condition] = ()) -> Iterator[str]:
        return self._items.iter_ids(where)

    def fields(self) -> dict[str, set[str]]:
        return self._items.fields()

    def refresh(self) -> None:
        """Build or extend the IVF lists if enough has changed."""
        revision, count = self._items.revision(), len(self)
        if count < IVF_MIN_ITEMS or not faiss_available() or not self._items.connections.writable:
            return
        lists = IVFLists.load(self.folder)  # not the cached lists: other threads are searching those
        removed = self._items.removed_keys(0, revision.last_removal)
        num_removed = 0 if lists is None else int((removed <= lists.last_key).sum())
        max_stale = _STALE_FRACTION * count
        if lists is None or num_removed > max_stale or lists.num_lists < num_lists_for(count) / 2:
            num_lists = num_lists_for(count)
            lists = IVFLists.train(self._sample_vectors(SAMPLES_PER_CENTROID * num_lists), num_lists)
        elif count + num_removed - len(lists) <= max_stale:
            return
        lists.extend(self._items.iter_vectors(lists.last_key, revision.last_key))
        self._tune_nprobe(lists, removed)
        with self._lock:
            lists.save(self.folder)
            self._cache = None

    def compact(self) -> None:
        self._items.connections.check_writable()
        revision = self._items.revision()
        if len(self._items.removed_keys(0, revision.last_removal)):
            IVFLists.delete(self.folder)  # compaction deletes the record of what to exclude from them
            self._cache = None
        self.refresh()
        self._items.compact(revision.last_removal)

    def check_integrity(self) -> list[str]:
        return self._items.check_integrity()

    def description(self) -> dict[str, Any]:
        search, lists = "exact", IVFLists.load(self.folder)
        if lists:
            search = f"{lists.nprobe} of {lists.num_lists:,} IVF lists of {len(lists):,} items"
        elif len(self) >= IVF_MIN_ITEMS:
            command = "latentbridge index compact" if faiss_available() else "pip install 'latentbridge[index]'"
            search = f"exact; quicker after `{command}`"
        size = sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file())
        return {"location": str(self.folder), "search": search, "bytes": size}

    def close(self) -> None:
        self._items.close()

    def _add(
        self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[str], thumbnails: Sequence[bytes | None]
    ) -> None:
        self._items.insert(ids, vectors, metadata, thumbnails)

    def _lookup(self, column: Literal["metadata", "thumbnail", "vector"], ids: Sequence[str]) -> Mapping[str, Any]:
        return self._items.lookup(column, ids)

    def _search(self, queries: np.ndarray, k: int, where: Sequence[Condition], exact: bool) -> list[list[Hit]]:
        while True:
            among = self._items.select_keys(where) if where else None
            try:
                results = self._scan(queries, k, among) if exact else self._search_cache(queries, k, among)
            except _ConcurrentChangeError:
                continue
            keys = np.unique(np.concatenate([keys for keys, _ in results])) if results else np.empty(0, np.int64)
            ids = self._items.ids_by_key(keys)
            if len(ids) == len(keys):  # otherwise some were removed or replaced during the search
                return [to_hits(*result, ids) for result in results]

    def _current_cache(self) -> _Cache:
        """Return the cache, updated to the last commit."""
        with self._lock:
            cache = self._cache
            if cache is None or cache.revision != self._items.revision():
                self._cache = None  # discarded if the update fails
                with self._items.read_transaction():
                    cache = self._cache = self._updated(cache)
            return cache

    def _updated(self, cache: _Cache | None) -> _Cache:
        """Return the cache, or a new one, at the revision of the current read transaction."""
        revision = self._items.revision()
        if cache is None or cache.revision.compactions != revision.compactions or _is_wasteful(cache.rows):
            lists = IVFLists.load(self.folder)
            start = Revision(lists.last_key if lists else 0, 0, revision.compactions)
            cache = _Cache(start, VectorRows(self.dimension), lists)
        for keys, vectors in self._items.iter_vectors(cache.revision.last_key, revision.last_key):
            cache.rows.append(keys, vectors)
        removed = self._items.removed_keys(cache.revision.last_removal, revision.last_removal)
        cache.rows.discard(removed)
        if cache.lists and (removed <= cache.lists.last_key).any():
            cache.removed = np.union1d(cache.removed, removed[removed <= cache.lists.last_key])
            cache.mask = cache.lists.mask(exclude=cache.removed)
        cache.revision = revision
        return cache

    def _search_cache(self, queries: np.ndarray, k: int, among: np.ndarray | None) -> _Results:
        """Search in the fastest way available; raises _ConcurrentChangeError."""
        cache = self._current_cache()
        revision = cache.revision
        if cache.lists is None:
            return cache.rows.search(queries, k, among)
        if among is not None and len(among) <= _EXACT_FILTER_ITEMS:
            rows = VectorRows(self.dimension)
            rows.append(*self._items.vectors(among))
            self._check_unchanged(len(among) - len(rows), revision)
            return rows.search(queries, k)
        mask = cache.mask if among is None else cache.lists.mask(among)
        return self._search_lists(cache.lists, queries, k, mask, cache.rows.search(queries, k, among), revision)

    def _search_lists(
        self,
        lists: IVFLists,
        queries: np.ndarray,
        k: int,
        mask: KeyMask | None,
        recent: _Results,
        revision: Revision | None = None,
    ) -> _Results:
        """Return the best, by exact scores, of the lists' candidates and of the recent items' results.

        Raises _ConcurrentChangeError if the file is no longer at `revision` and lacks candidates.
        """
        listed = lists.candidates(queries, k + k // 4 + _EXTRA_CANDIDATES, mask)
        candidates = [np.sort(np.append(row[row >= 0], keys)) for row, (keys, _) in zip(listed, recent, strict=True)]
        requested = np.unique(np.concatenate(candidates))
        existing, vectors = self._items.vectors(requested)
        if len(existing) < len(requested):
            self._check_unchanged(len(requested) - len(existing), revision)
            candidates = [np.intersect1d(keys, existing, assume_unique=True) for keys in candidates]
        return [
            exact_top_k(query, keys, vectors[np.searchsorted(existing, keys)], k)
            for query, keys in zip(queries, candidates, strict=True)
        ]

    def _check_unchanged(self, num_missing: int, revision: Revision | None) -> None:
        """Raise _ConcurrentChangeError if items are missing and the file has changed since `revision`.

        Items missing from an unchanged file, as after an older file was restored, are ignored.
        """
        if num_missing and revision is not None and self._items.revision() != revision:
            raise _ConcurrentChangeError

    def _scan(self, queries: np.ndarray, k: int, among: np.ndarray | None = None) -> _Results:
        """Search all items exactly, one page of the file in memory at a time."""
        best = _no_results(queries)
        for keys, vectors in self._items.iter_vectors(0, sys.maxsize):  # unbounded, to include concurrent replacements
            page = VectorRows(self.dimension)
            page.append(keys, vectors)
            for row, result in enumerate(page.search(queries, k, among)):
                merged_keys, scores = (np.append(*pair) for pair in zip(best[row], result, strict=True))
                order = np.argsort(-scores, kind="stable")[:k]
                best[row] = merged_keys[order], scores[order]
        return best

    def _tune_nprobe(self, lists: IVFLists, removed: np.ndarray) -> None:
        """Choose `nprobe` by text-like queries, the hardest ones."""
        queries = perturb(self._sample_vectors(_NUM_TUNING_QUERIES), TEXT_COSINE)
        best_scores = [scores for _, scores in self._scan(queries, 10)]
        removed = removed[removed <= lists.last_key]
        mask = lists.mask(exclude=removed) if len(removed) else None

        def is_sufficient() -> bool:
            results = self._search_lists(lists, queries, 10, mask, _no_results(queries))
            return recall_at_k([scores for _, scores in results], best_scores) >= _TARGET_RECALL

        lists.tune_nprobe(is_sufficient)

    def _sample_vectors(self, count: int) -> np.ndarray:
        """Return at most `count` random vectors, float32 [n, dimension]."""
        keys = self._items.select_keys()
        return self._items.vectors(np.sort(numpy_rng(0, "index sample").permutation(keys)[:count]))[1]


def _no_results(queries: np.ndarray) -> _Results:
    return [(np.empty(0, np.int64), np.empty(0)) for _ in queries]


def _is_wasteful(rows: VectorRows) -> bool:
    return rows.num_discarded > _MAX_DISCARDED + len(rows) - rows.num_discarded
