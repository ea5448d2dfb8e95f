"""The index that is kept in a folder: every item in one SQLite file, and beside it what makes searches quick.

What searches look through is made of the file when it is first needed, and follows it afterwards, whoever writes; it can be
deleted at any time.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentbridge.errors import UserError
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.item_file import ItemFile, State
from latentbridge.retrieval.items import checked_items, checked_queries, no_item
from latentbridge.retrieval.rows import Rows
from latentbridge.types import Hit

FILE = "items.sqlite"
_OLD = "manifest.json"


class DiskIndex:
    """An `Index` in a folder, safe for many readers and one writer in one process and among processes."""

    def __init__(self, folder: Path) -> None:
        """Opens an index; raises UserError where there is none."""
        self.folder = folder
        if not (folder / FILE).is_file():
            if (folder / _OLD).is_file():
                raise UserError(f"{folder} holds an index of an older version; delete the folder and build it again.")
            raise UserError(f"{folder} holds no index; build one with `latentbridge index build`.")
        self._file = ItemFile(folder / FILE)
        self.dimension, self.maker = self._file.dimension, self._file.maker
        self._following = threading.Lock()
        self._rows = Rows(self.dimension)
        self._followed = State(0, 0, self._file.state().compactions)

    @classmethod
    def create(cls, folder: Path, dimension: int, maker: str = "") -> DiskIndex:
        """A new index, or the one that is there already; raises UserError where that holds vectors of another maker."""
        if not (folder / FILE).is_file() and (folder / _OLD).is_file():
            return cls(folder)
        ItemFile.create(folder / FILE, dimension, maker).close()
        return cls(folder)

    def __len__(self) -> int:
        return len(self._file)

    def add(self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[dict[str, Any]] | None = None) -> None:
        """See `Index.add`."""
        vectors, entries = checked_items(ids, vectors, metadata, self.dimension)
        self._file.put(ids, vectors, entries)

    def delete(self, ids: Sequence[str]) -> int:
        """See `Index.delete`."""
        return self._file.remove(ids)

    def search(
        self, queries: np.ndarray, k: int = 10, where: Sequence[Condition] = (), *, exact: bool = False
    ) -> list[list[Hit]]:
        """See `Index.search`."""
        queries = checked_queries(queries, self.dimension, k)
        while True:
            found = self._follow().search(queries, k, self._file.keys(where) if where else None)
            keys = np.unique(np.concatenate([keys for keys, _ in found])) if found else np.empty(0, np.int64)
            names = self._file.ids_of(keys)
            if len(names) == len(keys):  # else some were removed while they were looked for
                return [
                    [Hit(names[key], score) for key, score in zip(keys.tolist(), scores.tolist(), strict=True)]
                    for keys, scores in found
                ]

    def ids(self, where: Sequence[Condition] = ()) -> Iterator[str]:
        """See `Index.ids`."""
        return self._file.ids(where)

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """See `Index.metadata`."""
        found = self._file.entries_of(ids)
        return [json.loads(found[name][1]) if name in found else None for name in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """See `Index.vectors`."""
        found = self._file.entries_of(ids)
        for name in ids:
            if name not in found:
                raise no_item(name)
        keys = [found[name][0] for name in ids]
        there, vectors = self._file.take(keys)
        return vectors[np.searchsorted(there, keys)]

    def compact(self) -> None:
        """See `Index.compact`."""
        self._file.compact()

    def faults(self) -> list[str]:
        """See `Index.faults`."""
        return self._file.faults()

    def description(self) -> dict[str, Any]:
        """See `Index.description`."""
        return {"kept in": str(self.folder), "search": "exact"}

    def close(self) -> None:
        """See `Index.close`."""
        self._file.close()

    def _follow(self) -> Rows:
        """What searches look through, brought up to the last commit."""
        with self._following:
            now = self._file.state()
            if now.compactions != self._followed.compactions:
                self._rows, self._followed = Rows(self.dimension), State(0, now.last_removal, now.compactions)
            done = self._followed
            if now != done:
                for keys, vectors in self._file.rows(done.last_key, now.last_key):
                    self._rows.append(keys, vectors)
                self._rows.discard(self._file.removed(done.last_removal, now.last_removal))
                self._followed = now
            return self._rows
