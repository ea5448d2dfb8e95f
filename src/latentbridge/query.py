"""Search of an index by text, pictures and items of the index: parsing, embedding and ranking of queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from latentbridge.data.picture_sources import THUMBNAIL_PX, thumbnail
from latentbridge.errors import UserError
from latentbridge.images import ImageLike
from latentbridge.models.checkpoint import fingerprint
from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.exact_index import ExactIndex
from latentbridge.retrieval.filters import Condition
from latentbridge.retrieval.validation import UNIT_TOLERANCE
from latentbridge.types import Hit, Picture

if TYPE_CHECKING:
    from latentbridge.models.unified import UnifiedModel


@dataclass(frozen=True)
class QueryPart:
    """One part of a query: a text, a picture, an item of the index ("more like this"), or a vector; exactly one of them."""

    text: str | None = None
    picture: ImageLike | None = None
    item: str | None = None
    weight: float = 1.0
    """Weight in the sum of the parts; a negative one ranks similar items lower."""
    vector: np.ndarray | None = None
    """A unit vector of the index's model, float32 [e]."""

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.text, self.picture, self.item, self.vector)) != 1:
            raise UserError("A part of a query is words, a picture or an item of the index; give one of the three.")

    def text_to_embed(self, alone: bool) -> str | None:
        """Return the text; unless it is the only part, without a leading "but "."""
        return self.text if self.text is None or alone else self.text.strip().removeprefix("but ")


@dataclass(frozen=True)
class ParsedQuery:
    """A query without the words that the model does not know."""

    parts: list[QueryPart]
    unknown_words: list[str] = field(default_factory=list[str])
    """In their original spelling, without repeats."""
    warnings: list[str] = field(default_factory=list[str])

    @property
    def can_rank(self) -> bool:
        """True if a part with a positive weight is left."""
        return any(part.weight > 0 for part in self.parts)


class Hits(list[Hit]):
    """The hits of a search, best first, with the warnings and unknown words of its query."""

    def __init__(self, hits: Iterable[Hit], query: ParsedQuery) -> None:
        super().__init__(hits)
        self.warnings = query.warnings
        self.unknown_words = query.unknown_words


def build_index(
    model: UnifiedModel, pictures: Iterable[tuple[str, ImageLike]], index: Index | None = None, batch_size: int = 64
) -> Index:
    """Embed (id, picture) pairs batch by batch, add them to the index (a new one in memory by default) and return it."""
    if index is None:  # an empty one is false
        index = ExactIndex(model.embedding_size, fingerprint(model))
    source = iter(pictures)
    while batch := list(islice(source, batch_size)):
        index.add([name for name, _ in batch], model.embed(images=[picture for _, picture in batch]))
    return index


def item_thumbnails(
    index: Index, ids: Sequence[str], metadata: Sequence[dict[str, Any] | None], size_px: int = THUMBNAIL_PX
) -> list[Picture]:
    """Return a square thumbnail per item, given the items' metadata, see `data.picture_sources.thumbnail`."""
    stored = index.thumbnails(ids)
    return [thumbnail(entry or {}, size_px, image) for entry, image in zip(metadata, stored, strict=True)]


def search_index(
    model: UnifiedModel,
    index: Index,
    *parts: str | QueryPart,
    k: int = 10,
    where: Sequence[Condition] = (),
    allow_unknown: bool = False,
) -> Hits:
    """Return the `k` best hits for the weighted parts of a query, without the items that are parts of it.

    Words that the model does not know are ignored and reported (`parse_query`). If nothing else is left to search for, there
    are no hits, unless `allow_unknown`.
    """
    query = parse_query(
        model, [QueryPart(text=part) if isinstance(part, str) else part for part in parts], allow_unknown
    )
    if not query.can_rank:
        return Hits([], query)
    items = {part.item for part in query.parts if part.item is not None}
    hits = index.search(embed_query(model, index, query.parts), k + len(items), where)[0]
    return Hits([hit for hit in hits if hit.id not in items][:k], query)


def parse_query(model: UnifiedModel, parts: Sequence[QueryPart], allow_unknown: bool = False) -> ParsedQuery:
    """Remove the words that the model does not know from a query, and report them.

    A part without any known word is removed; with `allow_unknown` it stays unchanged, and its hits are a guess.
    Raises UserError if no part has a positive weight.
    """
    if not any(part.weight > 0 for part in parts):
        raise UserError("A search needs words, a picture or an item to look for, not only what to avoid.")
    known_parts: list[QueryPart] = []
    unknown: list[str] = []
    unknown_texts: list[str] = []
    for part in parts:
        text = part.text_to_embed(alone=len(parts) == 1)
        if text is None:
            known_parts.append(part)
            continue
        report = model.read_words(text)
        unknown += report.unknown
        if not report.rest:
            unknown_texts.append(text)
        if report.rest or allow_unknown:
            known_parts.append(replace(part, text=report.rest or text))
    query = ParsedQuery(known_parts, list(dict.fromkeys(unknown)))
    if warning := _unknown_words_warning(query, unknown_texts, allow_unknown):
        query.warnings.append(warning)
    return query


def _unknown_words_warning(query: ParsedQuery, unknown_texts: Sequence[str], allow_unknown: bool) -> str:
    if not query.can_rank:
        return f"The model knows no word of {_quoted(unknown_texts)}, so nothing was looked for; allow unknown words to get a guess."
    if unknown_texts and allow_unknown:
        return f"The model knows no word of {_quoted(unknown_texts)}; what it finds for that is a guess."
    if query.unknown_words or unknown_texts:
        return f"The model does not know {_quoted(query.unknown_words or unknown_texts)}; ranked by the rest."
    return ""


def _quoted(words: Sequence[str]) -> str:
    """Return words as a sentence lists them: "a", "b" and "c"."""
    *first, last = [f'"{word}"' for word in words]
    return f"{', '.join(first)} and {last}" if first else last


def embed_query(model: UnifiedModel, index: Index, parts: Sequence[QueryPart]) -> np.ndarray:
    """Return the unit vector, float32 [e], of the weighted sum of the parts' vectors."""
    vectors = [_embed_part(model, index, part, alone=len(parts) == 1) for part in parts]
    return combine_vectors(vectors, [part.weight for part in parts])


def combine_vectors(vectors: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the unit vector along the weighted sum of unit vectors, float32 [d] or [n, d].

    The sum is the usual training-free baseline of composed retrieval. Raises UserError if the vectors cancel out.
    """
    total = np.sum(
        [weight * np.asarray(vector, np.float32) for weight, vector in zip(weights, vectors, strict=True)], 0
    )
    norm = np.linalg.norm(total, axis=-1, keepdims=True)
    if not np.isfinite(norm).all() or (norm < UNIT_TOLERANCE).any():
        raise UserError("The parts of the query cancel each other out; choose other weights.")
    return (total / norm).astype(np.float32)


def check_index_model(model: UnifiedModel, index: Index, address: Any) -> None:
    """Raise UserError if the index was built with another model."""
    if index.model_fingerprint not in ("", fingerprint(model)):
        raise UserError(f"{address} was built with another model; build it again or name that model with --model.")


def _embed_part(model: UnifiedModel, index: Index, part: QueryPart, alone: bool) -> np.ndarray:
    if part.vector is not None:
        return part.vector
    if (text := part.text_to_embed(alone)) is not None:
        return model.embed(texts=text)
    if part.picture is not None:
        return model.embed(images=part.picture)
    return index.vectors([str(part.item)])[0]
