"""Pictures of a source into an index: what is new or changed is embedded, what is gone is dropped, and a kill costs a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from itertools import islice
from typing import Any

from latentbridge.data.pictures import Found, Source
from latentbridge.errors import UserError
from latentbridge.images import fit_square, open_picture
from latentbridge.models.omnibridge.model import Model
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.index import Index
from latentbridge.types import Picture

_BATCH = 64
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


def fill_index(
    model: Model,
    index: Index,
    source: Source,
    fields: Mapping[str, Any] | None = None,
    *,
    mirror: bool = True,
    left_out: Callable[[str], object] = lambda sentence: None,
    progress: Progress = lambda count: None,
) -> Built:
    """Make the index hold what the source does; what came from elsewhere stays as it is.

    Without `mirror` nothing is dropped. `fields` are stored with every picture. Each batch is committed before the next is read, so a pass that was stopped goes
    on where it stopped when it is begun again. In memory are one batch of pictures and all ids.
    """
    began, built, seen = time.monotonic(), Built(), set[str]()

    def fault(sentence: str) -> None:
        built.left_out.append(sentence)
        left_out(sentence)

    origin = {**(fields or {}), ORIGIN: source.name}
    found = _once(source.pictures(fault), seen)
    while batch := list(islice(found, _BATCH)):
        _take(model, index, batch, origin, built, fault)
        progress(len(batch))
    for ids in _parted(_gone(index, source, seen)) if mirror else ():
        built.dropped += index.delete(ids)
    index.refresh()
    built.seconds = time.monotonic() - began
    return built


def _take(
    model: Model,
    index: Index,
    batch: list[Found],
    origin: Mapping[str, Any],
    built: Built,
    fault: Callable[[str], None],
) -> None:
    """Store one batch: new pictures embedded, known ones with what is now said of them, broken ones not at all."""
    known = dict(zip([each.id for each in batch], index.metadata([each.id for each in batch]), strict=True))
    fresh: list[tuple[str, dict[str, Any], Picture]] = []
    retold: list[tuple[str, dict[str, Any]]] = []
    broken: list[str] = []
    for each in batch:
        metadata, before = {**each.metadata, **origin, STAMP: each.stamp}, known[each.id]
        if before is not None and before.get(STAMP) == each.stamp:
            metadata |= {side: before[side] for side in ("width", "height")}
            if metadata == before:
                built.unchanged += 1
            else:
                retold.append((each.id, metadata))
            continue
        try:
            picture = open_picture(each.image)
        except UserError as error:
            fault(f"{each.id}: {error}")
            broken.append(each.id)
            continue
        metadata |= {"width": picture.shape[1], "height": picture.shape[0]}
        fresh.append((each.id, metadata, fit_square(picture, model.config.backbone.image_size_px)))
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
