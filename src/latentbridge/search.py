"""Pictures into an index, and words or pictures into hits: where models and retrieval meet."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np

from latentbridge.errors import UserError
from latentbridge.images import ImageLike
from latentbridge.models.checkpoint import fingerprint
from latentbridge.models.omnibridge.model import Images, Model, Texts
from latentbridge.retrieval.index import Index, compose_query
from latentbridge.types import Hit


def build_index(model: Model, pictures: Iterable[tuple[str, ImageLike]], batch_size: int = 64) -> Index:
    """An index of (id, picture) pairs, read and embedded one batch at a time; wrap the pairs in `tqdm` to watch."""
    index = Index(model.embedding_size, maker=fingerprint(model))
    source = iter(pictures)
    while batch := list(islice(source, batch_size)):
        index.add([name for name, _ in batch], model.embed(images=[picture for _, picture in batch]))
    return index


def search_index(
    model: Model,
    index: Index,
    text: Texts | None = None,
    image: Images | None = None,
    but: Texts | None = None,
    k: int = 10,
    weight: float = 0.5,
) -> Any:
    """The `k` best hits for a text or for a picture: a list of `Hit`, or a list of such lists where a list is asked.

    `but` tells what should differ, as in picture and "but red": the query is then `compose_query(picture, "red",
    weight)`. It may be one text for all queries.
    """
    if (text is None) == (image is None):
        raise UserError('Search takes either a text or a picture; say what should differ in `but`, as in "but red".')
    query = model.embed(texts=text) if text is not None else model.embed(images=image)
    if but is not None:
        change = _without_but(but) if isinstance(but, str) else [_without_but(words) for words in but]
        query, words = np.broadcast_arrays(query, model.embed(texts=change))
        query = compose_query(query, words, weight)
    hits: list[list[Hit]] = index.search(query, k)
    return hits[0] if query.ndim == 1 else hits


def _without_but(words: str) -> str:
    return words.strip().removeprefix("but ")
