"""Exact cosine search over unit vectors, in memory or memory-mapped; NumPy only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentbridge.errors import UserError
from latentbridge.rundir import atomic_write, file_digest
from latentbridge.types import Hit

FORMAT_VERSION = 1
_UNIT_TOLERANCE = 1e-3
"""Largest deviation from length 1; vectors normalised in float32 are 1e-6 off, in bfloat16 3e-3, which is refused."""
_BLOCK_SCORES = 1 << 24
"""Scores held at a time: 64 MiB."""
_MANIFEST, _VECTORS, _ITEMS = "manifest.json", "vectors.npy", "items.jsonl"


class Index:
    """Unit vectors with an id and one JSON object of metadata each.

    A saved index is a folder: `vectors.npy` (float32 [n, dimension], memory-mapped when loaded), `items.jsonl` (id and
    metadata, one a line) and `manifest.json` (version, maker, sizes and the checksums of the other two).
    """

    def __init__(self, dimension: int, maker: str = ""):
        self.dimension = dimension
        self.maker = maker
        """What the vectors were made with, in any words; it is kept with them and never read here."""
        self.ids: list[str] = []
        self._metadata: list[dict[str, Any]] = []
        self._rows: dict[str, int] = {}
        self._blocks: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def vectors(self) -> np.ndarray:
        """float32 [n, dimension], in the order of `ids`."""
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate([np.empty((0, self.dimension), np.float32), *self._blocks])]
        return self._blocks[0]

    def metadata(self, item: str) -> dict[str, Any]:
        """What was stored with an id; empty where nothing was."""
        if item not in self._rows:
            raise UserError(f"The index holds no item {item!r}; ids are those given to `add`.")
        return self._metadata[self._rows[item]]

    def add(self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[dict[str, Any]] | None = None) -> None:
        """Append items: float [n, dimension] unit vectors; all of them or, where one is refused, none."""
        vectors = np.asarray(vectors, dtype=np.float32)
        entries = [{} for _ in ids] if metadata is None else list(metadata)
        if not len(ids) == len(vectors) == len(entries):
            raise UserError(
                f"There are {len(ids)} ids, {len(vectors)} vectors and {len(entries)} metadata; give one of each an item."
            )
        self._check(vectors)
        rows: dict[str, int] = {}
        for name in ids:
            if name in self._rows or name in rows:
                raise UserError(f"The id {name!r} is already in the index; give every item its own.")
            rows[name] = len(self) + len(rows)
        try:
            entries = json.loads(json.dumps(entries, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise UserError(f"Metadata must be plain JSON values ({error}); convert it first.") from error
        self._rows |= rows
        self.ids += ids
        self._metadata += entries
        self._blocks.append(vectors.copy())

    def search(self, queries: np.ndarray, k: int = 10) -> list[list[Hit]]:
        """The `k` best items for each query ([n, dimension] or [dimension]), best first; all of them where there are fewer.

        Candidates come from one float32 matrix product and are scored again in float64, row by row, so neither ranks nor
        scores depend on which queries share a batch. Equal scores keep the order in which items were added.
        """
        queries = np.atleast_2d(np.asarray(queries, dtype=np.float32))
        self._check(queries)
        if k < 1:
            raise UserError(f"A search returns at least one item, not {k}; set k to 1 or more.")
        if not self.ids:
            return [[] for _ in queries]
        step = max(1, _BLOCK_SCORES // len(self))
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), step):
            block = queries[start : start + step]
            hits += [self._best(query, row, k) for query, row in zip(block, block @ self.vectors.T, strict=True)]
        return hits

    def save(self, folder: Path) -> None:
        """Write the index to a folder. The manifest comes last; until every file is whole, an older index stays as it was."""
        folder = Path(folder)
        with (  # left in reverse order: vectors, items, manifest
            atomic_write(folder / _MANIFEST) as manifest,
            atomic_write(folder / _ITEMS) as items,
            atomic_write(folder / _VECTORS) as vectors,
        ):
            with vectors.open("wb") as stream:
                np.save(stream, self.vectors, allow_pickle=False)
            pairs = zip(self.ids, self._metadata, strict=True)
            items.write_text("".join(json.dumps({"id": name, "metadata": entry}) + "\n" for name, entry in pairs))
            values = {
                "version": FORMAT_VERSION,
                "maker": self.maker,
                "dimension": self.dimension,
                "count": len(self),
                "sha256": {_VECTORS: file_digest(vectors), _ITEMS: file_digest(items)},
            }
            manifest.write_text(json.dumps(values, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Index:
        """The index saved in a folder; raises UserError where a file is missing, damaged or of another version."""
        folder = Path(folder)
        if not (folder / _MANIFEST).is_file():
            raise UserError(f"{folder} holds no index (no {_MANIFEST}); build one with `latentbridge index build`.")
        try:
            manifest = json.loads((folder / _MANIFEST).read_text())
            version, checksums = manifest["version"], manifest["sha256"]
            index, count = cls(manifest["dimension"], manifest["maker"]), manifest["count"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / _MANIFEST} is damaged; build the index again.") from error
        if version != FORMAT_VERSION:
            raise UserError(
                f"{folder} holds an index of format {version}, and this version reads {FORMAT_VERSION}; build it again."
            )
        for name in (_VECTORS, _ITEMS):
            if not (folder / name).is_file() or file_digest(folder / name) != checksums.get(name):
                raise UserError(f"{folder / name} is missing, cut short or changed; build the index again.")
        index._blocks = [np.load(folder / _VECTORS, mmap_mode="r" if count else None, allow_pickle=False)]
        for line in (folder / _ITEMS).read_text().splitlines():
            entry = json.loads(line)
            index._rows[entry["id"]] = len(index.ids)
            index.ids.append(entry["id"])
            index._metadata.append(entry["metadata"])
        assert index.vectors.shape == (count, index.dimension) and len(index) == count
        return index

    def _check(self, vectors: np.ndarray) -> None:
        if vectors.ndim != 2 or vectors.shape[1] != self.dimension:
            raise UserError(
                f"This index holds vectors of {self.dimension} numbers, not arrays of shape {list(vectors.shape)}; "
                "use the model it was built with."
            )
        if not np.isfinite(vectors).all():
            raise UserError("A vector holds NaN or infinity; look at the model or the data that made it.")
        if np.abs(np.linalg.norm(vectors, axis=1) - 1).max(initial=0) > _UNIT_TOLERANCE:
            raise UserError("Vectors must have length 1; divide each by its norm first.")

    def _best(self, query: np.ndarray, rough: np.ndarray, k: int) -> list[Hit]:
        """The exact top `k` from float32 scores [n], which err by less than `dimension` units in the last place."""
        k = min(k, len(self))
        margin = 2 * self.dimension * float(np.finfo(np.float32).eps)
        candidates = np.flatnonzero(rough >= np.partition(rough, len(rough) - k)[len(rough) - k] - margin)
        scores = (self.vectors[candidates].astype(np.float64) * query.astype(np.float64)).sum(axis=1)
        order = np.argsort(-scores, kind="stable")[:k]
        return [Hit(self.ids[candidates[i]], float(scores[i])) for i in order]


def compose_query(image_vector: np.ndarray, text_vector: np.ndarray, weight: float = 0.5) -> np.ndarray:
    """A query for a picture changed by words: the unit vector along `(1 - weight) * image + weight * text`.

    Takes unit vectors [d] or [n, d]; a weight of 0 is the picture alone and 1 the words alone. The sum is the usual
    training-free baseline of composed retrieval.
    """
    if not 0 <= weight <= 1:
        raise UserError(f"The weight of the words lies between 0 and 1, not at {weight}.")
    mixed = (1 - weight) * np.asarray(image_vector, np.float32) + weight * np.asarray(text_vector, np.float32)
    norm = np.linalg.norm(mixed, axis=-1, keepdims=True)
    if (norm < _UNIT_TOLERANCE).any():
        raise UserError("Picture and words cancel each other out; choose another weight.")
    return (mixed / norm).astype(np.float32)
