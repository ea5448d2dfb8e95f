"""What frozen parts compute, computed once: kept on disk, keyed by the content it depends on."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from latentbridge.data.stores.array_log import ArrayLog, Batch, RaggedArray

Compute = Callable[[range], Batch]
"""Indices -> for each name, one array [rows, ...] an index."""


def cached_features(
    folder: Path, key: dict[str, Any], count: int, compute: Compute, *, batch_size: int = 128, progress: bool = True
) -> dict[str, RaggedArray]:
    """The features of `count` items under `key`, read from disk as far as a store of exactly that key goes, else computed.

    The key names everything the features depend on (weights, processor, template, dtype, data); a changed key is
    another folder, so there is never a stale hit. A store whose checksum is wrong is refused, not repaired.
    """
    name = sha256(json.dumps(["journal", key, count], sort_keys=True).encode()).hexdigest()[:24]
    journal = ArrayLog(folder / name, key)
    starts = range(len(journal), count, batch_size)
    for start in tqdm(starts, desc="features", disable=not progress or not starts, mininterval=2):
        journal.append(compute(range(start, min(count, start + batch_size))))
    return journal.arrays()
