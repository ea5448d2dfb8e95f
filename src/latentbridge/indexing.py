"""Synchronisation of an index with a source of pictures: embeds new and changed ones, and drops deleted ones.

An item goes only where the source says that its picture is gone: one that cannot be read now stays as it is. What the index
has to remember is in metadata whose names begin with `NAMESPACE`; all other names are the user's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from latentbridge.data.picture_sources import FILE, LOCATION_KEYS, NAMESPACE, PictureEntry, Source
from latentbridge.errors import StorageError, UserError
from latentbridge.images import open_picture
from latentbridge.models.unified import UnifiedModel
from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.filters import Condition
from latentbridge.types import Picture

_BATCH = 64
_PREFETCH_BATCHES = 1
_NUM_DECODERS = 2
"""Threads that decode and resize pictures, which releases Python's lock."""
_IDS_PER_PAGE = 1000
STAMP, ORIGIN, SIZE = f"{NAMESPACE}stamp", f"{NAMESPACE}source", f"{NAMESPACE}size"
"""Metadata fields: the version of the picture that was embedded, the source it belongs to, and [width, height]."""
_OLD_ORIGIN, _OLD_STAMP = "from", "stamp"
"""Their names in indexes that were made before 2026-12-02, whose pictures are embedded again."""


@dataclass
class IndexingResult:
    """Counts of one or more passes over a source."""

    embedded: int = 0
    unchanged: int = 0
    dropped: int = 0
    left_out: list[str] = field(default_factory=list)
    """One sentence per picture that could not be used."""
    seconds: float = 0.0

    def __add__(self, other: IndexingResult) -> IndexingResult:
        """Return the sum of both passes."""
        return IndexingResult(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True)
class _PendingItem:
    """A picture of the source that is already indexed in this version, or being decoded."""

    source: PictureEntry
    indexed: dict[str, Any] | None
    """The index's metadata of this version."""
    decoded: Future[tuple[Picture, list[int]]] | None
    """The picture at the model's size, with its original width and height; None if it is indexed."""


def sync_index(
    model: UnifiedModel,
    index: Index,
    source: Source,
    metadata: Mapping[str, Any] | None = None,
    *,
    mirror: bool = True,
    on_left_out: Callable[[str], object] = lambda sentence: None,
    on_progress: Callable[[int], object] = lambda count: None,
) -> IndexingResult:
    """Make the index hold the source's pictures, with `metadata` added to each; items of other sources stay unchanged.

    A picture that cannot be read is left out; if an earlier version of it is indexed, that stays. A picture whose id belongs to another source is left out. Without `mirror` nothing is dropped. Batches are committed in
    order while the next one is prefetched; an interrupted pass resumes after the last commit. Memory holds two batches of
    pictures and all ids.
    """
    start, result, seen = time.monotonic(), IndexingResult(), set[str]()

    def leave_out(sentence: str) -> None:
        result.left_out.append(sentence)
        on_left_out(sentence)

    common = {**(metadata or {}), ORIGIN: source.name}
    pictures = _skip_repeated_ids(source.pictures(leave_out), seen)
    with closing(_prefetched_batches(pictures, index, source.name, model.fit, leave_out)) as batches:
        for batch in batches:
            _store_batch(model, index, batch, common, result, leave_out)
            on_progress(len(batch))
    deleted = _deleted_ids(index, source, seen) if mirror else iter(())
    while ids := list(islice(deleted, _IDS_PER_PAGE)):
        result.dropped += index.delete(ids)
    index.refresh()
    result.seconds = time.monotonic() - start
    return result


def _prefetched_batches(
    pictures: Iterator[PictureEntry],
    index: Index,
    source: str,
    fit: Callable[[Picture], Picture],
    leave_out: Callable[[str], None],
) -> Generator[list[_PendingItem]]:
    """Yield batches in order while the pictures of the next `_PREFETCH_BATCHES` are decoded."""
    queue: deque[list[_PendingItem]] = deque()
    decoders = ThreadPoolExecutor(_NUM_DECODERS, thread_name_prefix="opener")

    def pending(picture: PictureEntry, indexed: dict[str, Any] | None) -> _PendingItem | None:
        if indexed is not None:
            same_place = all(indexed.get(place) == picture.location.get(place) for place in LOCATION_KEYS)
            if not same_place and _origin(indexed) != source and _may_exist(indexed):
                origin = _origin(indexed) or "elsewhere"
                leave_out(
                    f"{picture.id}: the index holds another picture of that id, from {origin}; rename one, or delete that one"
                )
                return None
            if same_place and indexed.get(STAMP) == picture.stamp:
                return _PendingItem(picture, indexed, None)
        return _PendingItem(picture, None, decoders.submit(_decode, picture, fit))

    try:
        while True:
            while len(queue) <= _PREFETCH_BATCHES and (batch := list(islice(pictures, _BATCH))):
                indexed = index.metadata([picture.id for picture in batch])
                items = map(pending, batch, indexed)
                queue.append([item for item in items if item is not None])
            if not queue:
                return
            yield queue.popleft()
    finally:
        decoders.shutdown(cancel_futures=True)


def _may_exist(metadata: dict[str, Any]) -> bool:
    """Return whether an indexed picture may still exist; false only for a missing file."""
    return FILE not in metadata or Path(metadata[FILE]).exists()


def _decode(picture: PictureEntry, fit: Callable[[Picture], Picture]) -> tuple[Picture, list[int]]:
    image = open_picture(picture.image)
    return fit(image), [image.shape[1], image.shape[0]]


def _store_batch(
    model: UnifiedModel,
    index: Index,
    batch: list[_PendingItem],
    common: Mapping[str, Any],
    result: IndexingResult,
    leave_out: Callable[[str], None],
) -> None:
    """Embed and add new pictures, and update changed metadata of known ones."""
    new: list[tuple[str, dict[str, Any], Picture]] = []
    updated: dict[str, dict[str, Any]] = {}
    for item in batch:
        name = item.source.id
        if item.indexed is not None:
            metadata = _metadata_of(item.source, item.indexed[SIZE], common)
            result.unchanged += 1
            if metadata != item.indexed:
                updated[name] = metadata
            continue
        assert item.decoded is not None
        try:
            picture, size = item.decoded.result()
        except UserError as error:
            leave_out(f"{name}: {error}")
            continue
        new.append((name, _metadata_of(item.source, size, common), picture))
    if new:
        ids, metadata, pictures = map(list, zip(*new, strict=True))
        result.embedded += _add_valid(index, ids, model.embed(images=pictures), metadata, leave_out)
    if updated:
        _add_valid(index, list(updated), index.vectors(list(updated)), list(updated.values()), leave_out)


def _metadata_of(picture: PictureEntry, size: list[int], common: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item's metadata: facts about the picture, what the user says of it, and the index's own."""
    facts = {"width": size[0], "height": size[1]}
    return {**facts, **picture.metadata, **common, **picture.location, STAMP: picture.stamp, SIZE: size}


def _add_valid(
    index: Index,
    ids: list[str],
    vectors: np.ndarray,
    metadata: list[dict[str, Any]],
    leave_out: Callable[[str], None],
) -> int:
    """Add items and return how many; if the index refuses one of them, add the others and leave that one out."""
    try:
        index.add(ids, vectors, metadata)
    except StorageError:
        raise
    except UserError as error:
        if len(ids) == 1:
            leave_out(f"{ids[0]}: {error}")
            return 0
        rows = (([name], vectors[row : row + 1], [metadata[row]]) for row, name in enumerate(ids))
        return sum(_add_valid(index, *one, leave_out) for one in rows)
    return len(ids)


def _skip_repeated_ids(pictures: Iterator[PictureEntry], seen: set[str]) -> Iterator[PictureEntry]:
    """Yield the first picture of each id, and add the ids to `seen`."""
    for picture in pictures:
        if picture.id not in seen:
            seen.add(picture.id)
            yield picture


def _deleted_ids(index: Index, source: Source, seen: set[str]) -> Iterator[str]:
    """Yield the items of the source that it no longer has; what is in parts that could not be read stays."""
    ids = chain.from_iterable(index.ids([Condition(name, "=", source.name)]) for name in (ORIGIN, _OLD_ORIGIN))
    while page := list(islice(ids, _IDS_PER_PAGE)):
        missing = [name for name in page if name not in seen]
        for name, metadata in zip(missing, index.metadata(missing), strict=True):
            if metadata and _origin(metadata) == source.name and not source.may_hold(name, metadata):
                yield name


def _origin(metadata: Mapping[str, Any]) -> str | None:
    """Return the source that an item belongs to, if it came from one."""
    old = metadata.get(_OLD_ORIGIN) if _OLD_STAMP in metadata and SIZE not in metadata else None
    return metadata.get(ORIGIN, old)
