"""A disk cache of features of frozen models, keyed by all that they depend on."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from latentbridge.data.stores.array_log import ArrayLog, Batch, RaggedArray

Compute = Callable[[range], Batch]
"""Indices -> for each name, one array [rows, ...] per index."""


def cached_features(
    folder: Path, key: dict[str, Any], count: int, compute: Compute, *, batch_size: int = 128, progress: bool = True
) -> dict[str, RaggedArray]:
    """Return the features of `count` items, read from disk as far as they are there, else computed.

    The key has all that the features depend on (weights, processor, template, dtype, data); another key is another
    folder. Raise UserError if a checksum is wrong.
    """
    name = sha256(json.dumps(["journal", key, count], sort_keys=True).encode()).hexdigest()[:24]
    log = ArrayLog(folder / name, key)
    starts = range(len(log), count, batch_size)
    for start in tqdm(starts, desc="features", disable=not progress or not starts, mininterval=2):
        log.append(compute(range(start, min(count, start + batch_size))))
    return log.arrays()
