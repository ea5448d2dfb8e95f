"""Words, pictures and items of an index into hits: where models and retrieval meet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from latentbridge.data.pictures import KEPT_PX, thumbnail
from latentbridge.errors import UserError
from latentbridge.images import ImageLike
from latentbridge.models.checkpoint import fingerprint
from latentbridge.retrieval.exact import ExactIndex
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.index import Index
from latentbridge.retrieval.vector_rows import combine
from latentbridge.types import Hit, Picture

if TYPE_CHECKING:
    from latentbridge.models.unified import UnifiedModel


@dataclass(frozen=True)
class QueryPart:
    """One part of a query: words, a picture, or an item of the index ("more like this"); exactly one of them.

    Who has the vector of words or a picture already gives that instead.
    """

    words: str | None = None
    picture: ImageLike | None = None
    item: str | None = None
    weight: float = 1.0
    """How much it counts beside the other parts; below 0, how much it counts against a hit."""
    vector: np.ndarray | None = None
    """A unit vector of the index's model, float32 [e]."""

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.words, self.picture, self.item, self.vector)) != 1:
            raise UserError("A part of a query is words, a picture or an item of the index; give one of the three.")

    def spoken(self, alone: bool) -> str | None:
        """The words as they are embedded: beside other parts ("but at night") without what joins them."""
        return self.words if self.words is None or alone else self.words.strip().removeprefix("but ")


@dataclass(frozen=True)
class ParsedQuery:
    """A query without the words that the model does not know."""

    parts: list[QueryPart]
    """Those of which something is known; nothing can be ranked by them where none counts for a hit."""
    unknown_words: list[str] = field(default_factory=list[str])
    """As they are written, each once."""
    warnings: list[str] = field(default_factory=list[str])
    """Sentences for whoever asked."""

    @property
    def can_rank(self) -> bool:
        """Whether there is anything to look for."""
        return any(part.weight > 0 for part in self.parts)


class Hits(list[Hit]):
    """The hits of a search, best first, with what is to be said of the query."""

    def __init__(self, hits: Iterable[Hit] = (), query: ParsedQuery | None = None) -> None:
        super().__init__(hits)
        self.warnings: list[str] = query.warnings if query else []
        self.unknown_words: list[str] = query.unknown_words if query else []


def build_index(
    model: UnifiedModel, pictures: Iterable[tuple[str, ImageLike]], index: Index | None = None, batch_size: int = 64
) -> Index:
    """The index, a new one in memory unless given, with (id, picture) pairs, read and embedded one batch at a time."""
    if index is None:  # an empty one is false
        index = ExactIndex(model.embedding_size, fingerprint(model))
    source = iter(pictures)
    while batch := list(islice(source, batch_size)):
        index.add([name for name, _ in batch], model.embed(images=[picture for _, picture in batch]))
    return index


def show_items(
    index: Index, ids: Sequence[str], metadata: Sequence[dict[str, Any] | None], size_px: int = KEPT_PX
) -> list[Picture]:
    """A small square of each item, whose metadata are at hand: `data.pictures.thumbnail`."""
    kept = index.thumbnails(ids)
    return [thumbnail(known or {}, size_px, small) for known, small in zip(metadata, kept, strict=True)]


def search_index(
    model: UnifiedModel,
    index: Index,
    *asked: str | QueryPart,
    k: int = 10,
    where: Sequence[Condition] = (),
    allow_unknown: bool = False,
) -> Hits:
    """Return the `k` best hits for what is asked, a text alone being words; items asked for by id are not found again.

    Words that the model does not know are left out and named (`parse_query`). Where nothing else is looked for there are
    no hits, unless `allow_unknown`.
    """
    query = parse_query(
        model, [QueryPart(words=part) if isinstance(part, str) else part for part in asked], allow_unknown
    )
    if not query.can_rank:
        return Hits(query=query)
    given = {wish.item for wish in query.parts if wish.item is not None}
    hits = index.search(query_of(model, index, query.parts), k + len(given), where)[0]
    return Hits([hit for hit in hits if hit.id not in given][:k], query)


def parse_query(model: UnifiedModel, wishes: Sequence[QueryPart], allow_unknown: bool = False) -> ParsedQuery:
    """Return the parts of a query without the words that the model does not know, which are named.

    A part of which no word is known is left out; with `allow_unknown` it stays as it is, and what it finds is a guess.
    Raises UserError where the query says only what to avoid.
    """
    if not any(wish.weight > 0 for wish in wishes):
        raise UserError("A search needs words, a picture or an item to look for, not only what to avoid.")
    parts: list[QueryPart] = []
    unknown: list[str] = []
    lost: list[str] = []
    for wish in wishes:
        text = wish.spoken(alone=len(wishes) == 1)
        if text is None:
            parts.append(wish)
            continue
        report = model.read_words(text)
        unknown += report.unknown
        if not report.rest:
            lost.append(text)
        if report.rest or allow_unknown:
            parts.append(replace(wish, words=report.rest or text))
    query = ParsedQuery(parts, list(dict.fromkeys(unknown)))
    if warning := _warning(query, lost, allow_unknown):
        query.warnings.append(warning)
    return query


def _warning(query: ParsedQuery, lost: Sequence[str], allow_unknown: bool) -> str:
    """One sentence about what of a query is not known; `lost` are its texts of which no word is known."""
    if not query.can_rank:
        return f"The model knows no word of {_quoted(lost)}, so nothing was looked for; allow unknown words to get a guess."
    if lost and allow_unknown:
        return f"The model knows no word of {_quoted(lost)}; what it finds for that is a guess."
    if query.unknown_words or lost:
        return f"The model does not know {_quoted(query.unknown_words or lost)}; ranked by the rest."
    return ""


def _quoted(words: Sequence[str]) -> str:
    """Words as a sentence lists them: "a", "b" and "c"."""
    *first, last = [f'"{word}"' for word in words]
    return f"{', '.join(first)} and {last}" if first else last


def query_of(model: UnifiedModel, index: Index, wishes: Sequence[QueryPart]) -> np.ndarray:
    """Return the unit vector, float32 [e], along the weighted sum of the parts' vectors."""
    vectors = [_vector(model, index, wish, alone=len(wishes) == 1) for wish in wishes]
    return combine(vectors, [wish.weight for wish in wishes])


def check_maker(model: UnifiedModel, index: Index, address: Any) -> None:
    """Raises UserError where the index was built with another model."""
    if index.maker not in ("", fingerprint(model)):
        raise UserError(f"{address} was built with another model; build it again or name that model with --model.")


def _vector(model: UnifiedModel, index: Index, wish: QueryPart, alone: bool) -> np.ndarray:
    if wish.vector is not None:
        return wish.vector
    if (words := wish.spoken(alone)) is not None:
        return model.embed(texts=words)
    if wish.picture is not None:
        return model.embed(images=wish.picture)
    return index.vectors([str(wish.item)])[0]
