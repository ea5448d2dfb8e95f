"""What frozen parts compute, computed once: ragged arrays on disk, keyed by content, memory-mapped, checksummed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from latentbridge.errors import UserError
from latentbridge.rundir import atomic_write, write_json

Compute = Callable[[range], dict[str, list[np.ndarray]]]
"""Indices -> for each name, one array [rows, ...] an index; all arrays of a name agree in dtype and row shape."""


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


def cached_features(
    folder: Path, key: dict[str, Any], count: int, compute: Compute, *, batch_size: int = 128, progress: bool = True
) -> dict[str, Ragged]:
    """The features of `count` items under `key`, from disk where a whole store of exactly that key exists, else computed.

    The key names everything the features depend on (weights, processor, template, dtype, data); a changed key is
    another folder, so there is never a stale hit. A store whose checksum is wrong is refused, not repaired.
    """
    home = folder / sha256(json.dumps([key, count], sort_keys=True).encode()).hexdigest()[:24]
    manifest = home / "manifest.json"
    if not manifest.exists():
        _compute_store(home, key, count, compute, batch_size, progress)
    names = json.loads(manifest.read_text())["checksums"]
    for name, checksum in names.items():
        if not (home / name).is_file() or _digest(home / name) != checksum:
            raise UserError(
                f"The cached features in {home} are damaged ({name}); delete that folder to compute them again."
            )
    arrays = {name: np.load(home / name, mmap_mode="r") for name in names}
    kinds = {name.partition(".")[0] for name in names}
    return {kind: Ragged(arrays[f"{kind}.rows.npy"], arrays[f"{kind}.ends.npy"]) for kind in sorted(kinds)}


def _compute_store(
    home: Path, key: dict[str, Any], count: int, compute: Compute, batch_size: int, progress: bool
) -> None:
    parts: dict[str, list[np.ndarray]] = {}
    for start in tqdm(range(0, count, batch_size), desc="features", disable=not progress, mininterval=2):
        for name, arrays in compute(range(start, min(count, start + batch_size))).items():
            parts.setdefault(name, []).extend(arrays)
    for name, arrays in parts.items():
        _save(home / f"{name}.rows.npy", np.concatenate(arrays))
        _save(home / f"{name}.ends.npy", np.cumsum([len(array) for array in arrays]))
    checksums = {path.name: _digest(path) for path in sorted(home.glob("[!.]*.npy"))}
    write_json(home / "manifest.json", {"key": key, "count": count, "checksums": checksums})


def _save(path: Path, array: np.ndarray) -> None:
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def _digest(path: Path) -> str:
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
