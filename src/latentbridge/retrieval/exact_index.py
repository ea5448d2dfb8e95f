"""Exact search in memory: the reference for all other indexes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from latentbridge.retrieval.base_index import Index, to_hits
from latentbridge.retrieval.filters import Condition, field_types, matches_all
from latentbridge.retrieval.vector_rows import VectorRows
from latentbridge.types import Hit


class ExactIndex(Index):
    """A brute-force index in memory, not persistent; one lock serialises all threads."""

    def __init__(self, dimension: int, model_fingerprint: str = "") -> None:
        self.dimension = dimension
        self.model_fingerprint = model_fingerprint
        self._rows = VectorRows(dimension)
        self._keys: dict[str, int] = {}
        self._ids: dict[int, str] = {}
        self._metadata: dict[int, dict[str, Any]] = {}
        self._thumbnails: dict[str, bytes] = {}
        self._next_key = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._keys)

    def delete(self, ids: Sequence[str]) -> int:
        with self._lock:
            deleted = [key for name in ids if (key := self._keys.pop(name, None)) is not None]
            self._rows.discard(np.array(deleted, np.int64))
            for key in deleted:
                self._thumbnails.pop(self._ids.pop(key), None)
                del self._metadata[key]
            return len(deleted)

    def ids(self, where: Sequence[Condition] = ()) -> Iterator[str]:
        with self._lock:
            return iter([self._ids[key] for key in self._matching(where)])

    def fields(self) -> dict[str, set[str]]:
        with self._lock:
            names = {name for metadata in self._metadata.values() for name in metadata}
            return {
                name: set().union(*(field_types(metadata.get(name)) for metadata in self._metadata.values()))
                for name in names
            }

    def compact(self) -> None:
        with self._lock:
            keys, rows = np.array(list(self._ids), np.int64), VectorRows(self.dimension)
            rows.append(keys, self._rows.gather(keys))
            self._rows = rows

    def description(self) -> dict[str, Any]:
        return {"location": "memory", "search": "exact"}

    def _add(
        self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[str], thumbnails: Sequence[bytes | None]
    ) -> None:
        with self._lock:
            self.delete(ids)
            keys = np.arange(self._next_key, self._next_key + len(ids), dtype=np.int64)
            self._next_key += len(ids)
            self._keys.update(zip(ids, keys.tolist(), strict=True))
            self._ids.update(zip(keys.tolist(), ids, strict=True))
            self._metadata.update(zip(keys.tolist(), map(json.loads, metadata), strict=True))
            self._thumbnails |= {name: image for name, image in zip(ids, thumbnails, strict=True) if image is not None}
            self._rows.append(keys, vectors)

    def _search(self, queries: np.ndarray, k: int, where: Sequence[Condition], exact: bool) -> list[list[Hit]]:
        with self._lock:
            among = np.array(self._matching(where), np.int64) if where else None
            return [to_hits(keys, scores, self._ids) for keys, scores in self._rows.search(queries, k, among)]

    def _lookup(self, column: Literal["metadata", "thumbnail", "vector"], ids: Sequence[str]) -> Mapping[str, Any]:
        with self._lock:
            if column == "thumbnail":
                return {name: self._thumbnails[name] for name in ids if name in self._thumbnails}
            keys = {name: self._keys[name] for name in ids if name in self._keys}
            if column == "metadata":
                return {name: self._metadata[key] for name, key in keys.items()}
            ordered = sorted(keys, key=keys.__getitem__)
            vectors = self._rows.gather(np.array([keys[name] for name in ordered], np.int64))
            return dict(zip(ordered, vectors, strict=True))

    def _matching(self, where: Sequence[Condition]) -> list[int]:
        return [key for key, metadata in self._metadata.items() if matches_all(where, metadata)]
