"""Append-only arrays on disk: memory-mapped, checksummed, written by whole batches."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentbridge.errors import StorageError, UserError
from latentbridge.files import write_json

Batch = dict[str, list[np.ndarray]]
"""For each name, one array [rows, ...] per item; arrays of a name have one dtype and row shape."""


@dataclass(frozen=True)
class RaggedArray:
    """Arrays of different lengths, concatenated."""

    rows: np.ndarray
    """[total rows, ...], memory-mapped."""
    ends: np.ndarray
    """int64 [n]: the end of each item, and the start of the next."""

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.rows[self.ends[index - 1] if index else 0 : self.ends[index]]

    def padded(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the items zero-padded to the longest, [b, s, ...], and their mask, bool [b, s]."""
        items = [self[i] for i in indices]
        lengths = np.array([len(item) for item in items])
        mask = np.arange(lengths.max()) < lengths[:, None]
        padded = np.zeros((*mask.shape, *self.rows.shape[1:]), dtype=self.rows.dtype)
        padded[mask] = np.concatenate(items)
        return padded, mask


class ArrayLog:
    """A folder of `NAME.rows` (raw rows), `batches.jsonl`, and `manifest.json` (key, dtypes and row shapes).

    A line of `batches.jsonl` has the lengths of a batch's items and the checksums of their rows. It is written after the
    rows, so a batch is complete or absent: the next batch overwrites what an interrupted writer left. Checksums are
    compared when the log is opened.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        """Open the log in a folder, if there is one; raise UserError if its key differs."""
        self.folder = folder
        self._manifest, self._batches = folder / "manifest.json", folder / "batches.jsonl"
        self.key: dict[str, Any] = json.loads(json.dumps(key))
        self._kinds: dict[str, dict[str, Any]] = {}
        self._lengths: dict[str, list[int]] = {}
        self._valid_bytes = 0
        self._size_bytes = 0
        if self._manifest.exists():
            self._open()

    def __len__(self) -> int:
        return len(next(iter(self._lengths.values()), ()))

    def append(self, batch: Batch) -> None:
        """Add the items of a batch, with the names, dtypes and row shapes of earlier batches."""
        rows = {name: np.concatenate(items) for name, items in batch.items()}
        kinds = {name: {"dtype": array.dtype.str, "row": list(array.shape[1:])} for name, array in rows.items()}
        if not self._manifest.exists():
            write_json(self._manifest, {"key": self.key, "arrays": kinds})
            self._kinds, self._lengths = kinds, {name: [] for name in kinds}
        if kinds != self._kinds:
            raise ValueError(f"The log holds {self._kinds}; the batch {kinds} does not fit.")
        if self._size() != self._size_bytes:
            raise UserError(f"Another process is writing to {self.folder}; wait until it ends and start again.")
        for name, array in rows.items():
            _write_at(self._path(name), sum(self._lengths[name]) * self._row_bytes(name), array.tobytes())
        entry = {
            name: {"lengths": [len(item) for item in batch[name]], "sha256": sha256(array.tobytes()).hexdigest()}
            for name, array in rows.items()
        }
        line = json.dumps(entry).encode() + b"\n"
        _write_at(self._batches, self._valid_bytes, line)
        self._valid_bytes = self._size_bytes = self._valid_bytes + len(line)
        for name, lengths in self._lengths.items():
            lengths += entry[name]["lengths"]

    def arrays(self) -> dict[str, RaggedArray]:
        """Return all items by name."""
        return {name: RaggedArray(self._rows(name), np.cumsum(lengths)) for name, lengths in self._lengths.items()}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.rows"

    def _size(self) -> int:
        return self._batches.stat().st_size if self._batches.exists() else 0

    def _row_bytes(self, name: str) -> int:
        return np.dtype(self._kinds[name]["dtype"]).itemsize * math.prod(self._kinds[name]["row"])

    def _rows(self, name: str) -> np.ndarray:
        dtype, shape = np.dtype(self._kinds[name]["dtype"]), (sum(self._lengths[name]), *self._kinds[name]["row"])
        if not math.prod(shape):  # an empty file cannot be mapped
            return np.empty(shape, dtype)
        return np.memmap(self._path(name), dtype, "r", shape=shape).view(np.ndarray)

    def _open(self) -> None:
        try:
            manifest = json.loads(self._manifest.read_text())
            stored, self._kinds = manifest["key"], manifest["arrays"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(self._manifest.name) from error
        if stored != self.key:
            name = next(name for name in stored | self.key if stored.get(name) != self.key.get(name))
            raise UserError(
                f"{self.folder} was made with {name} {stored.get(name)!r}, not {self.key.get(name)!r}; choose another folder."
            )
        self._lengths = {name: [] for name in self._kinds}
        self._size_bytes = self._size()
        lines = self._batches.read_bytes().splitlines(keepends=True) if self._size_bytes else []
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {}
            for name in self._kinds if lines else ():
                if not self._path(name).is_file():
                    raise self._damaged(self._path(name).name)
                files[name] = stack.enter_context(open(self._path(name), "rb"))
            for line in lines:
                if line.endswith(b"\n"):  # an incomplete line counts as absent
                    self._check(line, files)

    def _check(self, line: bytes, files: dict[str, BinaryIO]) -> None:
        """Read the next batch of the files, compare its checksums, and add its lengths."""
        try:
            entry = json.loads(line)
            for name, lengths in self._lengths.items():
                rows = files[name].read(sum(entry[name]["lengths"]) * self._row_bytes(name))
                if sha256(rows).hexdigest() != entry[name]["sha256"]:
                    raise self._damaged(self._path(name).name)
                lengths += entry[name]["lengths"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise self._damaged(self._batches.name) from error
        self._valid_bytes += len(line)

    def _damaged(self, name: str) -> UserError:
        return UserError(f"The data in {self.folder} is damaged ({name}); delete that folder to compute it again.")


def _write_at(path: Path, start: int, content: bytes) -> None:
    """Replace the content from `start` on and flush it to disk."""
    try:
        with open(path, "r+b" if path.exists() else "xb") as file:
            file.seek(start)
            file.write(content)
            file.truncate()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"Cannot write {path} ({error.strerror}); free some space or move it.") from error
