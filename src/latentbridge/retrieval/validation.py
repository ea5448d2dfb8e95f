"""Checks of ids, vectors, metadata, thumbnails and index names, the same for every index."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentbridge.errors import UserError

UNIT_TOLERANCE = 1e-3
"""Largest deviation from length 1; vectors normalised in float32 are 1e-6 off, in bfloat16 3e-3, which is refused."""
MAX_THUMBNAIL_BYTES = 1 << 16
_ID = re.compile(r"[^\0\ud800-\udfff]+")
"""Any text that UTF-8 can encode; Python decodes invalid file names to surrogates."""
_INDEX_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")


def validate_items(
    ids: Sequence[str],
    vectors: np.ndarray,
    metadata: Sequence[dict[str, Any]] | None,
    thumbnails: Sequence[bytes | None] | None,
    dimension: int,
) -> tuple[np.ndarray, list[str], Sequence[bytes | None]]:
    """Return float32 [n, dimension] vectors, metadata as JSON texts, and thumbnails; raises UserError if one is invalid."""
    vectors = np.asarray(vectors, dtype=np.float32)
    entries = [{} for _ in ids] if metadata is None else list(metadata)
    if not len(ids) == len(vectors) == len(entries):
        raise UserError(
            f"There are {len(ids)} ids, {len(vectors)} vectors and {len(entries)} metadata; give one of each per item."
        )
    seen: set[str] = set()
    for name in ids:
        if not isinstance(name, str) or not _ID.fullmatch(name) or name in seen:
            raise UserError(f"The id {name!r} is empty, not text, or given twice; give every item its own id.")
        seen.add(name)
    vectors, texts = validate_vectors(vectors, dimension), [_to_json(entry) for entry in entries]
    thumbnails = [None] * len(ids) if thumbnails is None else thumbnails
    if len(thumbnails) != len(ids):
        raise UserError(f"There are {len(ids)} ids and {len(thumbnails)} thumbnails; give one or None per item.")
    for name, thumbnail in zip(ids, thumbnails, strict=True):
        if thumbnail is not None and len(thumbnail) > MAX_THUMBNAIL_BYTES:
            raise UserError(
                f"The thumbnail of {name!r} has {len(thumbnail):,} bytes; make it smaller, at most {MAX_THUMBNAIL_BYTES:,}."
            )
    return vectors, texts, thumbnails


def validate_vectors(vectors: np.ndarray, dimension: int) -> np.ndarray:
    """Return unit vectors as float32 [n, dimension]; raises UserError for anything else."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise UserError(
            f"This index holds vectors of {dimension} numbers, not arrays of shape {list(vectors.shape)}; "
            "use the model it was built with."
        )
    if not np.isfinite(vectors).all():
        raise UserError("A vector contains NaN or infinity; check the model and the data it comes from.")
    if np.abs(np.linalg.norm(vectors, axis=1) - 1).max(initial=0) > UNIT_TOLERANCE:
        raise UserError("Vectors must have length 1; divide each by its norm first.")
    return vectors


def validate_queries(queries: np.ndarray, dimension: int, k: int) -> np.ndarray:
    """Return unit queries as float32 [n, dimension]; raises UserError for invalid queries or a `k` below 1."""
    if k < 1:
        raise UserError(f"A search returns at least one item, not {k}; set k to 1 or more.")
    return validate_vectors(np.atleast_2d(queries), dimension)


def check_index_name(name: str) -> str:
    """Return a name that is safe as a folder and in a table name; raises UserError for any other."""
    if not _INDEX_NAME.fullmatch(name):
        raise UserError(
            f"{name[:60]!r} cannot name an index; use up to 48 small letters, digits, dashes and underscores, "
            "the first a letter or digit."
        )
    return name


def redact_password(address: str | Path) -> str:
    """Return an address without its password, for messages."""
    location, at, rest = str(address).rpartition("@")
    scheme, colon, user = location.partition("://")
    return f"{scheme}{colon}{user.partition(':')[0]}{at}{rest}" if at and colon else str(address)


def _to_json(entry: dict[str, Any]) -> str:
    try:
        if not isinstance(entry, dict):
            raise TypeError(f"{type(entry).__name__} instead of an object")
        return json.dumps(entry, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"Metadata must be plain JSON values ({error}); convert it first.") from error
