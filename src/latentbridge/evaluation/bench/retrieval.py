"""Retrieval: ranks of positives among a gallery. Ties are broken against the model, so that a collapse scores nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from latentbridge.evaluation.bench.benchmark import Benchmark, Result, composite, missing
from latentbridge.evaluation.bench.cached_model import CachedModel, Failure
from latentbridge.evaluation.bench.pictures import PictureSource
from latentbridge.evaluation.bench.tools import Tools
from latentbridge.evaluation.metrics import Score, average, share

SKILL = "find"
Kind = Literal["image", "text"]


@dataclass(frozen=True)
class Query:
    """A search for pictures or texts among a gallery."""

    id: str
    group: str
    positives: tuple[str, ...]
    """Ids of the gallery's items that are right."""
    picture: PictureSource | None = None
    text: str | None = None
    excluded: tuple[str, ...] = ()
    """Ids that are left out of the ranking, such as the reference picture."""
    subset: tuple[str, ...] = ()
    """Ids among which the query is ranked a second time."""


class Gallery:
    """Unit vectors of the items that are searched; items that cannot be embedded rank behind all others."""

    def __init__(self, model: CachedModel, kind: Kind, items: dict[str, PictureSource] | dict[str, str]) -> None:
        vectors = model.embed(kind, list(items.values()))  # pyright: ignore[reportArgumentType]
        self.index = {id: row for row, id in enumerate(items)}
        self.failures = {id: v.reason for id, v in zip(items, vectors, strict=True) if isinstance(v, Failure)}
        width = model.model.embedding_size
        rows = [np.zeros(width, np.float32) if isinstance(vector, Failure) else vector for vector in vectors]
        self.vectors = np.stack(rows) if rows else np.zeros((0, width), np.float32)

    def similarities(self, query: np.ndarray, excluded: Sequence[str] = ()) -> np.ndarray:
        """Return the cosine of a unit vector [e] with each item, -inf for failures and excluded ones: float32 [n]."""
        cosines = self.vectors @ query.astype(np.float32)
        left_out = [self.index[id] for id in (*self.failures, *excluded) if id in self.index]
        cosines[left_out] = -np.inf
        return cosines

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Return the rows of items that are in the gallery and could be embedded."""
        return [self.index[id] for id in ids if id in self.index and id not in self.failures]


def first_rank(similarities: np.ndarray, positives: Sequence[int]) -> int:
    """Return the rank, from 1, of the best positive; negatives of equal similarity go before it."""
    best = similarities[list(positives)].max()
    is_negative = np.ones(len(similarities), dtype=bool)
    is_negative[list(positives)] = False
    return 1 + int((similarities[is_negative] >= best).sum())


def hits(similarities: np.ndarray, positives: Sequence[int], count: int) -> np.ndarray:
    """Return whether each of the `count` best items is a positive, best first; negatives go first among equals."""
    positive = np.zeros(len(similarities), dtype=bool)
    positive[list(positives)] = True
    order = np.lexsort((positive, -similarities))[:count]
    return positive[order]


def map_at_r(found: np.ndarray, positives: int) -> float:
    """Return mAP@R of the hits among the best R of a query with R positives (arXiv:2003.08505)."""
    precision = np.cumsum(found[:positives]) / np.arange(1, len(found[:positives]) + 1)
    return float((precision * found[:positives]).sum() / positives)


class RetrievalBenchmark(Benchmark[Query]):
    """Queries ranked against galleries; subclasses embed queries and galleries in `prepare`."""

    def rank(self, query: Query, gallery: Gallery, vector: np.ndarray | Failure) -> Result:
        """Return the result of a query by its vector: right if the first hit is, with "rank" (and "subset rank")."""
        if isinstance(vector, Failure):
            return missing(query.id, vector.reason, group=query.group)
        positives = gallery.rows(query.positives)
        if not positives:
            first = query.positives[0] if query.positives else "none"
            reason = gallery.failures.get(first, f"the gallery lacks {first}")
            return missing(query.id, reason, group=query.group)
        similarities = gallery.similarities(vector, query.excluded)
        rank = first_rank(similarities, positives)
        measures = {"rank": float(rank)} | self.further_measures(query, gallery, similarities, positives)
        return Result(
            query.id, "right" if rank == 1 else "wrong", float(rank == 1), group=query.group, measures=measures
        )

    def further_measures(
        self, query: Query, gallery: Gallery, similarities: np.ndarray, positives: list[int]
    ) -> dict[str, float]:
        """Return what a subclass measures beside the rank."""
        return {}


def recall(results: Sequence[Result], k: int, metric: str, measure: str = "rank", note: str = "") -> Score:
    """Return the share of queries with a positive among the first k; missing ones count as 0."""
    return share(SKILL, metric, [is_found(result, k, measure) for result in results], note=note)


def is_found(result: Result, k: int, measure: str = "rank") -> bool:
    return result.measures.get(measure, np.inf) <= k


def recalls_sum(metric: str, groups: Sequence[Sequence[Result]], depths: Sequence[int], note: str) -> Score:
    """Return the sum over groups and depths of recalls in per cent, such as RSUM."""
    columns = [[[100.0 * is_found(result, k) for k in depths] for result in group] for group in groups]
    return composite(SKILL, metric, columns, lambda means: np.sum([m.sum(-1) for m in means], 0), "points", note)


def mean_measure(results: Sequence[Result], measure: str, metric: str, note: str = "") -> Score:
    """Return the mean of a measure over queries; missing ones count as 0."""
    return average(SKILL, metric, [result.measures.get(measure, 0.0) for result in results], note=note)


def query_vectors(model: CachedModel, queries: Sequence[Query]) -> list[np.ndarray | Failure]:
    """Return the vector of each query of one part, a picture or a text; a Failure for a query whose part the files lack."""
    pictures = iter(model.embed("image", [q.picture for q in queries if q.picture is not None]))
    texts = iter(model.embed("text", [q.text for q in queries if q.picture is None and q.text is not None]))
    return [
        next(pictures)
        if query.picture is not None
        else next(texts)
        if query.text is not None
        else Failure(f"the files lack {query.id}")
        for query in queries
    ]


def rank_all(
    benchmark: RetrievalBenchmark, queries: Sequence[Query], galleries: dict[str, Gallery], tools: Tools
) -> list[Result]:
    """Return the results of queries of one part, each in the gallery of its group."""
    vectors = query_vectors(tools.model, queries)
    return [
        benchmark.rank(query, galleries[query.group], vector) for query, vector in zip(queries, vectors, strict=True)
    ]
