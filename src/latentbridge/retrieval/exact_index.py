"""Exact search in memory: the oracle that every other index is held against, and enough for what need not be kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from latentbridge.retrieval.filters import Condition, matches_all
from latentbridge.retrieval.validation import missing_item_error, validate_items, validate_queries, validate_thumbnails
from latentbridge.retrieval.vector_rows import VectorRows
from latentbridge.types import Hit


class ExactIndex:
    """An `Index` that looks at every item and is gone with the process; threads take turns."""

    def __init__(self, dimension: int, model_fingerprint: str = "") -> None:
        self.dimension = dimension
        self.model_fingerprint = model_fingerprint
        self._rows = VectorRows(dimension)
        self._keys: dict[str, int] = {}
        self._items: dict[int, tuple[str, dict[str, Any]]] = {}
        self._small: dict[str, bytes] = {}
        self._next = 0
        self._turn = threading.RLock()

    def __len__(self) -> int:
        return len(self._keys)

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        metadata: Sequence[dict[str, Any]] | None = None,
        thumbnails: Sequence[bytes | None] | None = None,
    ) -> None:
        """See `Index.add`."""
        vectors, entries = validate_items(ids, vectors, metadata, self.dimension)
        small = validate_thumbnails(ids, thumbnails)
        with self._turn:
            self.delete(ids)
            self._small |= {name: picture for name, picture in zip(ids, small, strict=True) if picture is not None}
            keys = np.arange(self._next, self._next + len(ids), dtype=np.int64)
            for key, name, entry in zip(keys.tolist(), ids, entries, strict=True):
                self._keys[name], self._items[key] = key, (name, json.loads(entry))
            self._rows.append(keys, vectors)
            self._next += len(ids)

    def delete(self, ids: Sequence[str]) -> int:
        """See `Index.delete`."""
        with self._turn:
            for name in ids:
                self._small.pop(name, None)
            gone = [key for name in ids if (key := self._keys.pop(name, None)) is not None]
            self._rows.discard(np.array(gone, np.int64))
            for key in gone:
                del self._items[key]
            return len(gone)

    def search(
        self, queries: np.ndarray, k: int = 10, where: Sequence[Condition] = (), *, exact: bool = False
    ) -> list[list[Hit]]:
        """See `Index.search`; it is exact either way."""
        queries = validate_queries(queries, self.dimension, k)
        with self._turn:
            among = np.array([key for key, (_, entry) in self._items.items() if matches_all(where, entry)], np.int64)
            found = self._rows.search(queries, k, among if where else None)
            return [
                [Hit(self._items[key][0], score) for key, score in zip(keys.tolist(), scores.tolist(), strict=True)]
                for keys, scores in found
            ]

    def ids(self, where: Sequence[Condition] = ()) -> Iterator[str]:
        """See `Index.ids`."""
        with self._turn:
            return iter([name for name, entry in self._items.values() if matches_all(where, entry)])

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """See `Index.metadata`."""
        with self._turn:
            return [self._items[self._keys[name]][1] if name in self._keys else None for name in ids]

    def thumbnails(self, ids: Sequence[str]) -> list[bytes | None]:
        """See `Index.thumbnails`."""
        with self._turn:
            return [self._small.get(name) for name in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """See `Index.vectors`."""
        with self._turn:
            for name in ids:
                if name not in self._keys:
                    raise missing_item_error(name)
            keys = np.array([self._keys[name] for name in ids], np.int64)
            order = np.unique(keys)
            return self._rows.take(order)[np.searchsorted(order, keys)]

    def refresh(self) -> None:
        """See `Index.refresh`; there is nothing to do."""

    def compact(self) -> None:
        """See `Index.compact`."""
        with self._turn:
            keys, kept = np.array(sorted(self._items), np.int64), self._rows
            self._rows = VectorRows(self.dimension)
            self._rows.append(keys, kept.take(keys))

    def faults(self) -> list[str]:
        """See `Index.faults`; memory is trusted."""
        return []

    def description(self) -> dict[str, Any]:
        """See `Index.description`."""
        return {"kept in": "memory", "search": "exact"}

    def close(self) -> None:
        """See `Index.close`."""
