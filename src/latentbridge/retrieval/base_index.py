"""What every index can do, whatever keeps it: the oracle in memory, the folder on disk, a database elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from latentbridge.retrieval.filters import Condition
from latentbridge.types import Hit


class Index(Protocol):
    """Unit vectors, each under an id, with one JSON object of metadata and sometimes a thumbnail.

    Any number of threads may read while one writes. What `add` and `delete` have returned from is kept whatever happens to
    the process afterwards, as far as the store keeps anything; what they have not returned from is there wholly or not at all.
    """

    dimension: int
    model_fingerprint: str
    """What the vectors were made with, in any words; it is kept with them and never read here."""

    def __len__(self) -> int: ...

    def add(
        self,
        ids: Sequence[str],
        vectors: np.ndarray,
        metadata: Sequence[dict[str, Any]] | None = None,
        thumbnails: Sequence[bytes | None] | None = None,
    ) -> None:
        """Store items: float [n, dimension] unit vectors; all of them or, where one is refused, none.

        `thumbnails` are for items whose pictures are kept nowhere else: small pictures as the bytes of a file, kept with
        their items and never read here. An id that is there already is replaced, so that an `add` of unknown outcome can be repeated.
        """
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """Remove items; how many of them there were. Ids that are not there are passed over."""
        ...

    def search(
        self, queries: np.ndarray, k: int = 10, where: Sequence[Condition] = (), *, exact: bool = False
    ) -> list[list[Hit]]:
        """The `k` best items for each query (float [n, dimension] or [dimension]) among those that meet all conditions.

        Best first, fewer where there are fewer. Scores are exact; which items are found may be approximate, unless `exact`
        asks for a look at every one.
        """
        ...

    def ids(self, where: Sequence[Condition] = ()) -> Iterator[str]:
        """The ids of all items that meet the conditions, in the order in which they were added."""
        ...

    def metadata(self, ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """What was stored with each id; None where there is no such item."""
        ...

    def thumbnails(self, ids: Sequence[str]) -> list[bytes | None]:
        """The small picture that was stored with each id; None where there is none, or no such item."""
        ...

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """float32 [n, dimension]; raises UserError where there is no such item."""
        ...

    def refresh(self) -> None:
        """After much was added or deleted: bring up to date what makes searches quick. Searches are right without it."""
        ...

    def compact(self) -> None:
        """Give back the room of what was deleted, and refresh."""
        ...

    def faults(self) -> list[str]:
        """What is wrong with what is stored, a sentence each; `check_health` asks."""
        ...

    def description(self) -> dict[str, Any]:
        """What keeps the items, and how searches find them, for people to read."""
        ...

    def close(self) -> None:
        """Let go of files and connections; a closed index is not used again."""
        ...


@dataclass(frozen=True)
class HealthReport:
    """What a look at an index found."""

    items: int
    faults: tuple[str, ...]
    recall: float
    """Share of the ten best items of sampled queries that a search finds, against an exact one."""
    queries: int
    """How many queries were sampled; 0 where there are no items."""
