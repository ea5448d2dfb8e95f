"""What is checked of items before any store takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentbridge.errors import UserError
from latentbridge.retrieval.vector_rows import checked

_NAMES_AN_ITEM = re.compile(r"[^\0\ud800-\udfff]+")
"""Any text that UTF-8 has; a file name that is no text comes out of Python with surrogates."""
MAX_THUMBNAIL_BYTES = 1 << 16
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")


def validate_items(
    ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[dict[str, Any]] | None, dimension: int
) -> tuple[np.ndarray, list[str]]:
    """Unit vectors, float32 [n, dimension], and metadata as JSON texts; raises UserError where an item cannot be stored."""
    vectors = np.asarray(vectors, dtype=np.float32)
    entries = [{} for _ in ids] if metadata is None else list(metadata)
    if not len(ids) == len(vectors) == len(entries):
        raise UserError(
            f"There are {len(ids)} ids, {len(vectors)} vectors and {len(entries)} metadata; give one of each an item."
        )
    seen: set[str] = set()
    for name in ids:
        if not isinstance(name, str) or not _NAMES_AN_ITEM.fullmatch(name) or name in seen:
            raise UserError(f"The id {name!r} is empty, no text or given twice; give every item an id of its own.")
        seen.add(name)
    return checked(vectors, dimension), [_as_json(entry) for entry in entries]


def validate_thumbnails(ids: Sequence[str], thumbnails: Sequence[bytes | None] | None) -> Sequence[bytes | None]:
    """One small picture or None an item; raises UserError where one is too large to keep beside a vector."""
    small = [None] * len(ids) if thumbnails is None else thumbnails
    if len(small) != len(ids):
        raise UserError(f"There are {len(ids)} ids and {len(small)} thumbnails; give one or None an item.")
    for name, picture in zip(ids, small, strict=True):
        if picture is not None and len(picture) > MAX_THUMBNAIL_BYTES:
            raise UserError(
                f"The thumbnail of {name!r} has {len(picture):,} bytes, and {MAX_THUMBNAIL_BYTES:,} are the most; make it smaller."
            )
    return small


def validate_queries(queries: np.ndarray, dimension: int, k: int) -> np.ndarray:
    """Unit queries as float32 [n, dimension]; raises UserError where nothing can be searched with them."""
    if k < 1:
        raise UserError(f"A search returns at least one item, not {k}; set k to 1 or more.")
    return checked(np.atleast_2d(queries), dimension)


def check_index_name(name: str) -> str:
    """The name of an index as it may come from outside, fit for a folder and a table; raises UserError for any other."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name[:60]!r} cannot name an index; use up to 48 small letters, digits, dashes and underscores, "
            "the first a letter or digit."
        )
    return name


def shown(address: str | Path) -> str:
    """An address as it may be printed: without a password."""
    place, at, rest = str(address).rpartition("@")
    kind, colon, user = place.partition("://")
    return f"{kind}{colon}{user.partition(':')[0]}{at}{rest}" if at and colon else str(address)


def missing_item_error(name: str) -> UserError:
    """The error for an id that an index does not hold."""
    return UserError(f"The index holds no item {name!r}; ids are those given to `add`.")


def _as_json(entry: dict[str, Any]) -> str:
    try:
        if not isinstance(entry, dict):
            raise TypeError(f"{type(entry).__name__} instead of an object")
        return json.dumps(entry, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"Metadata must be plain JSON values ({error}); convert it first.") from error
