"""Arrays that grow on disk by whole batches: memory-mapped, checksummed, and never half written."""

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
"""For each name, one array [rows, ...] an item; all arrays of a name agree in dtype and row shape."""


@dataclass(frozen=True)
class Ragged:
    """Arrays of different lengths stored end to end."""

    rows: np.ndarray
    """[total rows, ...], memory-mapped."""
    ends: np.ndarray
    """int64 [n]: where item i ends; it starts where item i - 1 ended."""

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.rows[self.ends[index - 1] if index else 0 : self.ends[index]]

    def padded(self, indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The items one above another, zero-padded to the longest, and their mask: [b, s, ...] and bool [b, s]."""
        items = [self[i] for i in indices]
        length = max(len(item) for item in items)
        mask = np.arange(length) < np.array([len(item) for item in items])[:, None]
        stacked = np.zeros((len(items), length, *self.rows.shape[1:]), dtype=self.rows.dtype)
        stacked[mask] = np.concatenate(items)
        return stacked, mask


class Journal:
    """A folder of `NAME.rows` (raw rows, end to end), `batches.jsonl`, and `manifest.json` (key, dtypes and row shapes).

    A line of `batches.jsonl` holds the lengths of a batch's items and the checksums of their rows. It is written after
    the rows are on disk, so a batch counts wholly or not at all: what a killed writer left behind the last whole line
    is written over by the next batch. All checksums are compared once, when the journal is opened.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        """Opens the journal in a folder, or makes ready to begin one; raises UserError where its key is another one."""
        self.folder = folder
        self.key: dict[str, Any] = json.loads(json.dumps(key))
        self._kinds: dict[str, dict[str, Any]] = {}
        self._lengths: dict[str, list[int]] = {}
        self._whole_bytes = 0
        self._seen_bytes = 0
        if self._manifest.exists():
            self._open()

    def __len__(self) -> int:
        return len(next(iter(self._lengths.values()), ()))

    def append(self, batch: Batch) -> None:
        """Add the items of a batch; it has the names, dtypes and row shapes of the batches before it."""
        rows = {name: np.concatenate(items) for name, items in batch.items()}
        kinds = {name: {"dtype": array.dtype.str, "row": list(array.shape[1:])} for name, array in rows.items()}
        if not self._manifest.exists():
            write_json(self._manifest, {"key": self.key, "arrays": kinds})
            self._kinds, self._lengths = kinds, {name: [] for name in kinds}
        if kinds != self._kinds:
            raise ValueError(f"The journal holds {self._kinds}; the batch {kinds} does not fit.")
        if self._size() != self._seen_bytes:
            raise UserError(f"Another process is writing to {self.folder}; wait for its end and start again.")
        for name, array in rows.items():
            _write_at(self._path(name), sum(self._lengths[name]) * self._row_bytes(name), array.tobytes())
        entry = {
            name: {"lengths": [len(item) for item in batch[name]], "sha256": sha256(array.tobytes()).hexdigest()}
            for name, array in rows.items()
        }
        line = json.dumps(entry).encode() + b"\n"
        _write_at(self._batches, self._whole_bytes, line)
        self._whole_bytes += len(line)
        self._seen_bytes = self._whole_bytes
        for name, lengths in self._lengths.items():
            lengths += entry[name]["lengths"]

    def arrays(self) -> dict[str, Ragged]:
        """Everything appended so far, by name."""
        return {name: Ragged(self._rows(name), np.cumsum(lengths)) for name, lengths in self._lengths.items()}

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def _batches(self) -> Path:
        return self.folder / "batches.jsonl"

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.rows"

    def _size(self) -> int:
        return self._batches.stat().st_size if self._batches.exists() else 0

    def _row_bytes(self, name: str) -> int:
        return np.dtype(self._kinds[name]["dtype"]).itemsize * math.prod(self._kinds[name]["row"])

    def _rows(self, name: str) -> np.ndarray:
        dtype, shape = np.dtype(self._kinds[name]["dtype"]), (sum(self._lengths[name]), *self._kinds[name]["row"])
        if not math.prod(shape):  # nothing can be mapped of an empty file
            return np.empty(shape, dtype)
        return np.memmap(self._path(name), dtype, "r", shape=shape).view(np.ndarray)

    def _open(self) -> None:
        try:
            manifest = json.loads(self._manifest.read_text())
            stored, self._kinds = manifest["key"], manifest["arrays"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(self._manifest.name) from error
        if stored != self.key:
            raise UserError(f"{self.folder} {_difference(stored, self.key)}; choose another folder.")
        self._lengths = {name: [] for name in self._kinds}
        self._seen_bytes = self._size()
        lines = self._batches.read_bytes().splitlines(keepends=True) if self._seen_bytes else []
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {}
            for name in self._kinds if lines else ():
                if not self._path(name).is_file():
                    raise self._damaged(self._path(name).name)
                files[name] = stack.enter_context(open(self._path(name), "rb"))
            for line in lines:
                if line.endswith(b"\n"):  # else cut off while it was written
                    self._check(line, files)

    def _check(self, line: bytes, files: dict[str, BinaryIO]) -> None:
        """Count one batch in, having compared the next rows of the files with its checksums."""
        try:
            entry = json.loads(line)
            for name, lengths in self._lengths.items():
                rows = files[name].read(sum(entry[name]["lengths"]) * self._row_bytes(name))
                if sha256(rows).hexdigest() != entry[name]["sha256"]:
                    raise self._damaged(self._path(name).name)
                lengths += entry[name]["lengths"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise self._damaged(self._batches.name) from error
        self._whole_bytes += len(line)

    def _damaged(self, name: str) -> UserError:
        return UserError(
            f"What is stored in {self.folder} is damaged ({name}); delete that folder to compute it again."
        )


def _difference(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What a folder holds and what it was asked for, in the words of the first entry that differs."""
    name = next(name for name in stored | wanted if stored.get(name) != wanted.get(name))
    return f"was made with {name} {stored.get(name)!r}, not {wanted.get(name)!r}"


def _write_at(path: Path, start: int, content: bytes) -> None:
    """Replace everything from `start` on, through to the disk."""
    try:
        with open(path, "r+b" if path.exists() else "xb") as file:
            file.seek(start)
            file.write(content)
            file.truncate()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(
            f"Cannot write {path} ({error.strerror}); free some space or choose another folder."
        ) from error
