"""The index that is kept in a folder: every item in one SQLite file, and beside it what makes searches quick.

A small index is looked through whole. A large one has cells, which give candidates whose exact scores are then computed from
the file; what came after the cells is looked through whole until `refresh` takes it in. Rows and cells follow the file,
whoever writes, and can be made again from it at any time.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentbridge.errors import UserError
from latentbridge.retrieval import ivf as cells
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.health_check import recall_at_k, words_like
from latentbridge.retrieval.item_database import ItemDatabase, State
from latentbridge.retrieval.ivf import IVFLists, Selection
from latentbridge.retrieval.validation import missing_item_error, validate_items, validate_queries, validate_thumbnails
from latentbridge.retrieval.vector_rows import VectorRows, exact_top_k
from latentbridge.rng import numpy_rng
from latentbridge.types import Hit

FILE = "items.sqlite"
_OLD = "manifest.json"
IVF_MIN_ITEMS = 50_000
"""Items from which on cells pay (docs/decisions/0009-index.md)."""
_LATE_SHARE = 0.05
"""Share of the items that may be missing in the cells, or removed and still there, before `refresh` mends that."""
_FEW = 5_000
"""Where a filter leaves so few, each is looked at."""
_RECALL = 0.96
"""What the number of cells to look into is chosen by, a little above the promised 0.95."""
_SAMPLE = 100
_SPARE = 4
"""Candidates beyond those asked for and a quarter, since 8-bit scores are a little out of order: of 1,000 items that were the
best ten in their cells, of 100,000 as the shipped model makes them, no 12 candidates missed any (2026-11-24)."""

_WASTE = 8192
"""Rows that may be kept in memory for nothing; as many more as are kept for something."""

Found = list[tuple[np.ndarray, np.ndarray]]
"""For each query, keys and exact scores, best first."""


class _MovedOn(Exception):
    """Items were removed, or replaced, while they were looked for."""


@dataclass
class _View:
    """What searches look through, and up to which state of the file."""

    followed: State
    rows: VectorRows
    """What came after the cells; everything where there are none."""
    cells: IVFLists | None = None
    removed: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """Keys in the cells that are no longer there."""
    left: Selection | None = None
    """The others, where there are any such."""


class DiskIndex:
    """An `Index` in a folder, for many readers and one writer at a time, within a process and among processes."""

    def __init__(self, folder: Path) -> None:
        """Opens an index; raises UserError where there is none."""
        self.folder = folder
        if not (folder / FILE).is_file():
            if (folder / _OLD).is_file():
                raise UserError(f"{folder} holds an index of an older version; delete the folder and build it again.")
            raise UserError(f"{folder} holds no index; build one with `latentbridge index build`.")
        self._file = ItemDatabase(folder / FILE)
        self.dimension, self.model_fingerprint = self._file.dimension, self._file.model_fingerprint
        self._following = threading.Lock()
        self._view: _View | None = None

    @classmethod
    def create(cls, folder: Path, dimension: int, model_fingerprint: str = "") -> DiskIndex:
        """A new index, or the one that is there already, whatever it holds."""
        if (folder / FILE).is_file() or not (folder / _OLD).is_file():
            ItemDatabase.create(folder / FILE, dimension, model_fingerprint).close()
        return cls(folder)

    def __len__(self) -> int:
        return len(self._file)

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        metadata: Sequence[dict[str, Any]] | None = None,
        thumbnails: Sequence[bytes | None] | None = None,
    ) -> None:
        """See `Index.add`."""
        vectors, entries = validate_items(ids, vectors, metadata, self.dimension)
        self._file.put(ids, vectors, entries, validate_thumbnails(ids, thumbnails))

    def delete(self, ids: Sequence[str]) -> int:
        """See `Index.delete`."""
        return self._file.remove(ids)

    def search(
        self, queries: np.ndarray, k: int = 10, where: Sequence[Condition] = (), *, exact: bool = False
    ) -> list[list[Hit]]:
        """See `Index.search`."""
        queries = validate_queries(queries, self.dimension, k)
        while True:
            among = self._file.keys(where) if where else None
            try:
                found = self._pass(queries, k, among) if exact else self._find(queries, k, among)
            except _MovedOn:
                continue
            keys = np.unique(np.concatenate([keys for keys, _ in found])) if found else np.empty(0, np.int64)
            names = self._file.ids_of(keys)
            if len(names) == len(keys):  # else some were removed while they were looked for, or replaced
                return [
                    [Hit(names[key], score) for key, score in zip(keys.tolist(), scores.tolist(), strict=True)]
                    for keys, scores in found
                ]

    def ids(self, where: Sequence[Condition] = ()) -> Iterator[str]:
        """See `Index.ids`."""
        return self._file.ids(where)

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """See `Index.metadata`."""
        found = self._file.metadata_of(ids)
        return [json.loads(found[name]) if name in found else None for name in ids]

    def thumbnails(self, ids: Sequence[str]) -> list[bytes | None]:
        """See `Index.thumbnails`."""
        found = self._file.thumbnails_of(ids)
        return [found.get(name) for name in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """See `Index.vectors`."""
        found = self._file.vectors_of(ids)
        for name in ids:
            if name not in found:
                raise missing_item_error(name)
        return np.stack([found[name] for name in ids]) if ids else np.empty((0, self.dimension), np.float32)

    def refresh(self) -> None:
        """See `Index.refresh`: make or extend the cells where enough has changed to be worth it."""
        now, count = self._file.state(), len(self)
        if count < IVF_MIN_ITEMS or not cells.available() or not self._file.connections.writable:
            return
        built = IVFLists.load(self.folder)  # a copy of its own: the one in view is being searched
        gone = self._file.removed(0, now.last_removal)
        removed = 0 if built is None else int((gone <= built.last_key).sum())
        late = _LATE_SHARE * count
        if built is None or removed > late or built.centres < cells.centres_for(count) / 2:
            centres = cells.centres_for(count)
            built = IVFLists.learn(self._sample(cells.PER_CENTRE * centres), centres)
        elif count + removed - len(built) <= late:
            return
        built.extend(self._file.rows(built.last_key, now.last_key))
        self._settle(built, gone)
        with self._following:
            built.save(self.folder)
            self._view = None

    def compact(self) -> None:
        """See `Index.compact`."""
        self._file.connections.check_writable()
        now = self._file.state()
        if len(self._file.removed(0, now.last_removal)):
            for path in self.folder.glob("cells-*.faiss"):  # they hold what is about to be forgotten
                path.unlink(missing_ok=True)
            self._view = None
        self.refresh()
        self._file.compact(now.last_removal)

    def faults(self) -> list[str]:
        """See `Index.faults`."""
        return self._file.faults()

    def description(self) -> dict[str, Any]:
        """See `Index.description`."""
        how, built = "exact", IVFLists.load(self.folder)
        if built:
            how = f"{built.width} of {built.centres:,} cells of {len(built):,} items"
        elif len(self) >= IVF_MIN_ITEMS:
            mend = "latentbridge index compact" if cells.available() else "pip install 'latentbridge[index]'"
            how = f"exact; quicker after `{mend}`"
        return {
            "kept in": str(self.folder),
            "search": how,
            "bytes": sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file()),
        }

    def close(self) -> None:
        """See `Index.close`."""
        self._file.close()

    def _follow(self) -> _View:
        """What searches look through, brought up to the last commit."""
        with self._following:
            view = self._view
            if view is not None and view.followed == self._file.state():
                return view
            self._view = None  # until it is whole again, whatever may fail
            with self._file.one_commit():
                self._view = self._brought_up(view)
            return self._view

    def _brought_up(self, view: _View | None) -> _View:
        """The view, or a new one, as of the commit that the file is being read at."""
        now = self._file.state()
        if view is None or view.followed.compactions != now.compactions or _is_wasteful(view.rows):
            loaded = IVFLists.load(self.folder)
            start = State(loaded.last_key if loaded else 0, 0, now.compactions)
            view = _View(start, VectorRows(self.dimension), loaded)
        for keys, vectors in self._file.rows(view.followed.last_key, now.last_key):
            view.rows.append(keys, vectors)
        gone = self._file.removed(view.followed.last_removal, now.last_removal)
        view.rows.discard(gone)
        if view.cells and (gone <= view.cells.last_key).any():
            view.removed = np.union1d(view.removed, gone[gone <= view.cells.last_key])
            view.left = view.cells.selection(without=view.removed)
        view.followed = now
        return view

    def _find(self, queries: np.ndarray, k: int, among: np.ndarray | None) -> Found:
        """The best keys as quickly as the index can; raises _MovedOn."""
        view = self._follow()
        since = view.followed
        if view.cells is None:
            return view.rows.search(queries, k, among)
        if among is not None and len(among) <= _FEW:
            few = VectorRows(self.dimension)
            few.append(*self._file.take(among))
            self._check_there(len(among) - len(few), since)
            return few.search(queries, k)
        chosen = view.left if among is None else view.cells.selection(among)
        return self._rescored(view.cells, queries, k, chosen, view.rows.search(queries, k, among), since)

    def _rescored(
        self,
        built: IVFLists,
        queries: np.ndarray,
        k: int,
        chosen: Selection | None,
        late: Found,
        since: State | None = None,
    ) -> Found:
        """The best of the cells' candidates and of what came after them, by their exact scores; raises _MovedOn where `since`
        is given."""
        near = built.candidates(queries, k + k // 4 + _SPARE, chosen)
        wanted = [np.sort(np.append(row[row >= 0], keys)) for row, (keys, _) in zip(near, late, strict=True)]
        asked = np.unique(np.concatenate(wanted))
        there, vectors = self._file.take(asked)
        if len(there) < len(asked):
            self._check_there(len(asked) - len(there), since)
            wanted = [np.intersect1d(keys, there, assume_unique=True) for keys in wanted]
        return [
            exact_top_k(query, keys, vectors[np.searchsorted(there, keys)], k)
            for query, keys in zip(queries, wanted, strict=True)
        ]

    def _check_there(self, missing: int, since: State | None) -> None:
        """Raises _MovedOn where items are missing and the file has changed `since`. Where it has not, as when an older file was put
        back, they are passed over."""
        if missing and since is not None and self._file.state() != since:
            raise _MovedOn

    def _pass(self, queries: np.ndarray, k: int, among: np.ndarray | None = None) -> Found:
        """The best keys after a look at every item, some thousands of which are in memory at a time."""
        best: Found = [(np.empty(0, np.int64), np.empty(0)) for _ in queries]
        for keys, vectors in self._file.rows(0, sys.maxsize):  # to the very end, where what is replaced meanwhile goes
            part = VectorRows(self.dimension)
            part.append(keys, vectors)
            for row, found in enumerate(part.search(queries, k, among)):
                numbers, scores = (np.append(*both) for both in zip(best[row], found, strict=True))
                order = np.argsort(-scores, kind="stable")[:k]
                best[row] = numbers[order], scores[order]
        return best

    def _settle(self, built: IVFLists, removed: np.ndarray) -> None:
        """Choose how many cells are looked into, by queries as far from everything as words are."""
        queries = words_like(self._sample(_SAMPLE))
        best, none = self._pass(queries, 10), [(np.empty(0, np.int64), np.empty(0)) for _ in queries]
        removed = removed[removed <= built.last_key]
        chosen = built.selection(without=removed) if len(removed) else None

        def good() -> bool:
            found = self._rescored(built, queries, 10, chosen, none)
            return recall_at_k([scores for _, scores in found], [scores for _, scores in best]) >= _RECALL

        built.settle(good)

    def _sample(self, count: int) -> np.ndarray:
        """float32 [n, dimension]: at most so many vectors from anywhere."""
        keys = self._file.keys()
        return self._file.take(np.sort(numpy_rng(0, "index sample").permutation(keys)[:count]))[1]


def _is_wasteful(rows: VectorRows) -> bool:
    """Whether rows that were replaced or removed take so much room that reading the others anew is worth it."""
    return rows.discarded > _WASTE + len(rows) - rows.discarded
