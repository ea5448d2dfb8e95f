"""The abstract class of all vector indexes, with the argument checks they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from latentbridge.errors import UserError
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.validation import validate_items, validate_queries
from latentbridge.types import Hit


class Index(ABC):
    """Unit vectors by id, each with a JSON object of metadata and an optional thumbnail.

    Any number of threads may read while one writes. In a persistent index, a write that has returned survives a crash;
    a write that has not returned is stored completely or not at all.
    """

    dimension: int
    model_fingerprint: str
    """Identifies the model that the vectors come from; stored with them and not interpreted here."""

    @abstractmethod
    def __len__(self) -> int: ...

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        metadata: Sequence[dict[str, Any]] | None = None,
        thumbnails: Sequence[bytes | None] | None = None,
    ) -> None:
        """Store items, float [n, dimension] unit vectors: all of them or, if one is invalid, none.

        `thumbnails` are encoded image files, stored but not decoded here. An existing id is replaced, so an `add` of
        unknown outcome can be repeated. Raises UserError for invalid items.
        """
        self._add(ids, *validate_items(ids, vectors, metadata, thumbnails, self.dimension))

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> int:
        """Remove items and return how many existed; unknown ids are ignored."""

    def search(
        self, queries: np.ndarray, k: int = 10, where: Sequence[Condition] = (), *, exact: bool = False
    ) -> list[list[Hit]]:
        """Return up to `k` hits per query (float [n, dimension] or [dimension]) that meet all conditions, best first.

        Scores are exact. Recall may be below 1 unless `exact`, which compares every item.
        """
        return self._search(validate_queries(queries, self.dimension, k), k, where, exact)

    @abstractmethod
    def ids(self, where: Sequence[Condition] = ()) -> Iterator[str]:
        """Return the ids of all items that meet the conditions, in insertion order."""

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Return the metadata of each id; None for an unknown one."""
        by_id = self._lookup("metadata", ids)
        return [by_id.get(name) for name in ids]

    @abstractmethod
    def fields(self) -> dict[str, set[str]]:
        """Return the names of all metadata, each with the types of its values that conditions compare (`SCALAR_TYPES`)."""

    def thumbnails(self, ids: Sequence[str]) -> list[bytes | None]:
        """Return the thumbnail of each id; None for an unknown one, or if it has none."""
        by_id = self._lookup("thumbnail", ids)
        return [by_id.get(name) for name in ids]

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Return float32 [n, dimension]; raises UserError for an unknown id."""
        by_id = self._lookup("vector", ids)
        for name in ids:
            if name not in by_id:
                raise UserError(f"The index holds no item {name!r}; ids are those given to `add`.")
        return np.stack([by_id[name] for name in ids]) if ids else np.empty((0, self.dimension), np.float32)

    def refresh(self) -> None:  # noqa: B027
        """Update the search structures after many changes; searches are correct without it, but slower."""

    @abstractmethod
    def compact(self) -> None:
        """Reclaim the space of deleted items, and refresh."""

    def check_integrity(self) -> list[str]:
        """Return one sentence per error in the stored data."""
        return []

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Return where the items are stored and how they are searched, for people to read."""

    def close(self) -> None:  # noqa: B027
        """Close files and connections; a closed index must not be used again."""

    @abstractmethod
    def _add(
        self, ids: Sequence[str], vectors: np.ndarray, metadata: Sequence[str], thumbnails: Sequence[bytes | None]
    ) -> None:
        """Store validated items: float32 vectors and metadata as JSON texts."""

    @abstractmethod
    def _search(self, queries: np.ndarray, k: int, where: Sequence[Condition], exact: bool) -> list[list[Hit]]: ...

    @abstractmethod
    def _lookup(self, column: Literal["metadata", "thumbnail", "vector"], ids: Sequence[str]) -> Mapping[str, Any]:
        """Return one column of those items that exist, by id: a dict, bytes, or float32 [dimension]."""


def to_hits(keys: np.ndarray, scores: np.ndarray, ids: Mapping[int, str]) -> list[Hit]:
    """Return hits in the order of the keys, with the ids that stand for them."""
    return [Hit(ids[key], score) for key, score in zip(keys.tolist(), scores.tolist(), strict=True)]
