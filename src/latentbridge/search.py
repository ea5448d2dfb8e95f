"""Words, pictures and items of an index into hits: where models and retrieval meet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from latentbridge.retrieval.rows import combine
from latentbridge.types import Hit, Picture

if TYPE_CHECKING:
    from latentbridge.models.omnibridge.model import Model


@dataclass(frozen=True)
class Wish:
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


def build_index(
    model: Model, pictures: Iterable[tuple[str, ImageLike]], index: Index | None = None, batch_size: int = 64
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
    model: Model, index: Index, *asked: str | Wish, k: int = 10, where: Sequence[Condition] = ()
) -> list[Hit]:
    """The `k` best hits for what is asked, a text alone being words; items that are asked for by id are not found again."""
    wishes = [Wish(words=part) if isinstance(part, str) else part for part in asked]
    given = {wish.item for wish in wishes if wish.item is not None}
    hits = index.search(query_of(model, index, wishes), k + len(given), where)[0]
    return [hit for hit in hits if hit.id not in given][:k]


def query_of(model: Model, index: Index, wishes: Sequence[Wish]) -> np.ndarray:
    """The unit vector, float32 [e], along the weighted sum of the parts' vectors."""
    if not any(wish.weight > 0 for wish in wishes):
        raise UserError("A search needs words, a picture or an item to look for, not only what to avoid.")
    vectors = [_vector(model, index, wish, alone=len(wishes) == 1) for wish in wishes]
    return combine(vectors, [wish.weight for wish in wishes])


def check_maker(model: Model, index: Index, address: Any) -> None:
    """Raises UserError where the index was built with another model."""
    if index.maker not in ("", fingerprint(model)):
        raise UserError(f"{address} was built with another model; build it again or name that model with --model.")


def _vector(model: Model, index: Index, wish: Wish, alone: bool) -> np.ndarray:
    if wish.vector is not None:
        return wish.vector
    if (words := wish.spoken(alone)) is not None:
        return model.embed(texts=words)
    if wish.picture is not None:
        return model.embed(images=wish.picture)
    return index.vectors([str(wish.item)])[0]
