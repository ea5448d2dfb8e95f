"""Pictures of a source into an index: what is new or changed is embedded, what is gone is dropped, and a kill costs a batch."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from itertools import islice
from pathlib import Path
from typing import Any

from latentbridge.data.pictures import PLACES, Found, Source
from latentbridge.errors import UserError
from latentbridge.images import open_picture
from latentbridge.models.unified import UnifiedModel
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.index import Index
from latentbridge.types import Picture

_BATCH = 64
_AHEAD = 1
"""Batches whose pictures are opened while the one before them is embedded."""
_OPENERS = 2
"""Threads that open pictures; decoding and scaling hold no lock of Python's."""
STAMP, ORIGIN = "stamp", "from"
"""Fields of an item's metadata: which version of its picture was embedded, and which source it belongs to."""

Progress = Callable[[int], object]


@dataclass
class Built:
    """What a pass over a source came to."""

    embedded: int = 0
    unchanged: int = 0
    dropped: int = 0
    left_out: list[str] = field(default_factory=list)
    """What could not be used, a sentence each."""
    seconds: float = 0.0

    def __add__(self, other: Built) -> Built:
        """Both passes, one after the other."""
        return Built(*(getattr(self, each.name) + getattr(other, each.name) for each in dataclass_fields(self)))

    @property
    def rate(self) -> float:
        """Pictures embedded a second, reading and storing them included."""
        return self.embedded / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class _Opened:
    """A picture as it is and, fitted, as the model takes it."""

    fitted: Picture
    height: int
    width: int


@dataclass(frozen=True)
class _Read:
    """A picture of the source: known as it is, or being opened."""

    found: Found
    known: dict[str, Any] | None
    """What the index says of this version of it."""
    opening: Future[_Opened] | None
    """Where it says nothing."""


def fill_index(
    model: UnifiedModel,
    index: Index,
    source: Source,
    fields: Mapping[str, Any] | None = None,
    *,
    mirror: bool = True,
    left_out: Callable[[str], object] = lambda sentence: None,
    progress: Progress = lambda count: None,
) -> Built:
    """Make the index hold what the source does; what came from elsewhere stays as it is, and a picture that would take its
    id is left out.

    Without `mirror` nothing is dropped. `fields` are stored with every picture. Batches are committed in their order, the next
    one's pictures being opened meanwhile; a pass that was stopped goes on after the last commit when it is begun again. In
    memory are two batches of pictures and all ids.
    """
    began, built, seen = time.monotonic(), Built(), set[str]()

    def fault(sentence: str) -> None:
        built.left_out.append(sentence)
        left_out(sentence)

    origin = {**(fields or {}), ORIGIN: source.name}
    found = _once(source.pictures(fault), seen)
    with closing(_read(found, index, source.name, model.fit, fault)) as batches:
        for batch in batches:
            _take(model, index, batch, origin, built, fault)
            progress(len(batch))
    for ids in _parted(_gone(index, source, seen)) if mirror else ():
        built.dropped += index.delete(ids)
    index.refresh()
    built.seconds = time.monotonic() - began
    return built


def _read(
    found: Iterator[Found], index: Index, source: str, fit: Callable[[Picture], Picture], fault: Callable[[str], None]
) -> Generator[list[_Read]]:
    """Batches in their order, `_AHEAD` more of which are being opened."""
    coming: deque[list[_Read]] = deque()
    openers = ThreadPoolExecutor(_OPENERS, thread_name_prefix="opener")

    def reading(each: Found, said: dict[str, Any] | None) -> _Read | None:
        same = said is not None and all(said.get(place) == each.metadata.get(place) for place in PLACES)
        if said is not None and not same and said.get(ORIGIN) != source and _is_there(said):
            origin = said.get(ORIGIN) or "elsewhere"
            fault(
                f"{each.id}: the index holds another picture of that id, from {origin}; rename one, or delete that one"
            )
            return None
        if said is not None and same and said.get(STAMP) == each.stamp:
            return _Read(each, said, None)
        return _Read(each, None, openers.submit(_opened, each, fit))

    try:
        while True:
            while len(coming) <= _AHEAD and (batch := list(islice(found, _BATCH))):
                before = index.metadata([each.id for each in batch])
                read = (reading(each, said) for each, said in zip(batch, before, strict=True))
                coming.append([each for each in read if each is not None])
            if not coming:
                return
            yield coming.popleft()
    finally:
        openers.shutdown(cancel_futures=True)


def _is_there(said: dict[str, Any]) -> bool:
    """Whether an item's picture is where it was, as far as a look tells; a folder that was moved takes its items along."""
    return "file" not in said or Path(said["file"]).exists()


def _opened(each: Found, fit: Callable[[Picture], Picture]) -> _Opened:
    picture = open_picture(each.image)
    return _Opened(fit(picture), *picture.shape[:2])


def _take(
    model: UnifiedModel,
    index: Index,
    batch: list[_Read],
    origin: Mapping[str, Any],
    built: Built,
    fault: Callable[[str], None],
) -> None:
    """Store one batch: new pictures embedded, known ones with what is now said of them, broken ones not at all."""
    fresh: list[tuple[str, dict[str, Any], Picture]] = []
    retold: list[tuple[str, dict[str, Any]]] = []
    broken: list[str] = []
    for each in batch:
        name, metadata = each.found.id, {**each.found.metadata, **origin, STAMP: each.found.stamp}
        if each.opening is None:
            assert each.known is not None
            metadata |= {side: each.known[side] for side in ("width", "height")}
            if metadata == each.known:
                built.unchanged += 1
            else:
                retold.append((name, metadata))
            continue
        try:
            opened = each.opening.result()
        except UserError as error:
            fault(f"{name}: {error}")
            broken.append(name)
            continue
        fresh.append((name, metadata | {"width": opened.width, "height": opened.height}, opened.fitted))
    if broken:
        index.delete(broken)
    if fresh:
        ids, metadata, pictures = map(list, zip(*fresh, strict=True))
        index.add(ids, model.embed(images=pictures), metadata)
    if retold:
        ids, metadata = map(list, zip(*retold, strict=True))
        index.add(ids, index.vectors(ids), metadata)
    built.embedded += len(fresh)
    built.unchanged += len(retold)


def _once(found: Iterator[Found], seen: set[str]) -> Iterator[Found]:
    """The first of all with one id, which are noted in `seen`."""
    for each in found:
        if each.id not in seen:
            seen.add(each.id)
            yield each


def _gone(index: Index, source: Source, seen: set[str]) -> Iterator[str]:
    """Items of the source that it no longer has."""
    for ids in _parted(index.ids([Condition(ORIGIN, "=", source.name)])):
        missing = [name for name in ids if name not in seen]
        for name, metadata in zip(missing, index.metadata(missing), strict=True):
            if (metadata or {}).get("shard") not in source.unread:
                yield name


def _parted(ids: Iterator[str]) -> Iterator[list[str]]:
    while part := list(islice(ids, 1000)):
        yield part
