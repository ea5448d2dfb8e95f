"""Composed search: a reference picture and a text that says what is to be different (CIRR, FashionIQ).

The query is the weighted sum of the two vectors (`query.combine_vectors`), without training. Formats. CIRR
(arXiv:2108.04024): cap.rc2.val.json and split.rc2.val.json beside the NLVR2 pictures. FashionIQ (arXiv:1905.12794):
cap.{dress,shirt,toptee}.val.json and split.{dress,shirt,toptee}.val.json beside the pictures NAME.jpg or NAME.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.benchmark import Result, by_group, composite
from latentbridge.evaluation.bench.cached_model import Failure
from latentbridge.evaluation.bench.data_folder import PICTURE_SUFFIXES, DataFolder
from latentbridge.evaluation.bench.pictures import PictureSource
from latentbridge.evaluation.bench.retrieval import (
    SKILL,
    Gallery,
    Query,
    RetrievalBenchmark,
    first_rank,
    is_found,
    recall,
)
from latentbridge.evaluation.bench.tools import Tools
from latentbridge.evaluation.metrics import Score
from latentbridge.query import combine_vectors

CATEGORIES = ("dress", "shirt", "toptee")
_WEIGHTS = (1.0, 1.0)
"""Weights of the reference picture and the text."""
_NOTE = "zero-shot sum of picture and text"


class _ComposedRetrieval(RetrievalBenchmark):
    """Queries of a picture and a text against galleries of pictures by group."""

    def __init__(self) -> None:
        self.pictures: dict[str, dict[str, PictureSource]] = {}
        self.galleries: dict[str, Gallery] = {}

    def prepare(self, items: Sequence[Query], tools: Tools) -> None:
        groups = {query.group for query in items}
        self.galleries = {g: Gallery(tools.model, "image", self.pictures[g]) for g in self.pictures if g in groups}

    def evaluate(self, items: Sequence[Query], tools: Tools) -> list[Result]:
        pictures = tools.model.embed("image", [query.picture for query in items if query.picture is not None])
        texts = tools.model.embed("text", [query.text or "" for query in items])
        return [
            self.rank(query, self.galleries[query.group], _combine(picture, text))
            for query, picture, text in zip(items, pictures, texts, strict=True)
        ]


class Cirr(_ComposedRetrieval):
    """The validation split; the reference is not ranked, and the subset is the other five of its group of six."""

    def load(self, files: DataFolder) -> list[Query]:
        names = files.json(files.find("split.rc2.val.json")[0])
        self.pictures = {"": {name: files.picture(path.removeprefix("./")) for name, path in names.items()}}
        queries: list[Query] = []
        for row in files.json(files.find("cap.rc2.val.json")[0]):
            id, reference = str(row["pairid"]), row["reference"]
            if "target_hard" not in row:
                raise UserError(f"The pair {id} has no target_hard; use the split val.")
            subset = tuple(name for name in row["img_set"]["members"] if name != reference)
            picture = self.pictures[""].get(reference, Path(reference))
            queries.append(Query(id, "", (row["target_hard"],), picture, row["caption"], (reference,), subset))
        return queries

    def further_measures(
        self, query: Query, gallery: Gallery, similarities: np.ndarray, positives: list[int]
    ) -> dict[str, float]:
        members = gallery.rows(query.subset)
        targets = [place for place, row in enumerate(members) if row in positives]
        return {"subset rank": float(first_rank(similarities[members], targets))} if targets else {}

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        both = [[is_found(r, 5), is_found(r, 1, "subset rank")] for r in results]
        return [
            *(recall(results, k, f"CIRR R@{k}", note=_NOTE) for k in (1, 5, 10, 50)),
            *(recall(results, k, f"CIRR R@{k} in subset", "subset rank") for k in (1, 2, 3)),
            composite(SKILL, "CIRR mean of R@5 and R@1 in subset", [both], lambda means: means[0].mean(-1)),
        ]


class FashionIq(_ComposedRetrieval):
    """The validation split of three kinds of clothes; each gallery is the kind's image split, reference included."""

    def load(self, files: DataFolder) -> list[Query]:
        queries: list[Query] = []
        for kind in CATEGORIES:
            if not files.has(f"cap.{kind}.val.json"):
                continue
            names = files.json(files.find(f"split.{kind}.val.json")[0])
            self.pictures[kind] = {name: _clothes(files, name) for name in names}
            for number, row in enumerate(files.json(files.find(f"cap.{kind}.val.json")[0])):
                first, second = (caption.strip(".?, ") for caption in row["captions"])
                text = f"{first.capitalize()} and {second}"
                picture = _clothes(files, row["candidate"])
                queries.append(Query(f"{kind} {number}", kind, (row["target"],), picture, text))
        if not queries:
            raise UserError(f"{files.path} holds no cap.dress.val.json; give the folder of FashionIQ's captions.")
        return queries

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        groups = by_group(results)
        scores = [recall(members, k, f"{g} R@{k}", note=_NOTE) for g, members in groups.items() for k in (10, 50)]
        found = [[[is_found(r, 10), is_found(r, 50)] for r in members] for members in groups.values()]
        note = f"mean of {len(groups)} of {len(CATEGORIES)} kinds, validation, original image splits"
        for place, k in enumerate((10, 50)):
            columns = [[row[place] for row in members] for members in found]
            scores.append(composite(SKILL, f"FashionIQ R@{k}", columns, _mean_of_groups, note=note))
        return scores


def _mean_of_groups(means: Sequence[np.ndarray]) -> np.ndarray:
    return np.mean([mean[..., 0] for mean in means], axis=0)


def _combine(picture: np.ndarray | Failure, text: np.ndarray | Failure) -> np.ndarray | Failure:
    for part in (picture, text):
        if isinstance(part, Failure):
            return part
    try:
        return combine_vectors([picture, text], _WEIGHTS)  # pyright: ignore[reportArgumentType]
    except UserError as error:
        return Failure(str(error))


def _clothes(files: DataFolder, name: str) -> PictureSource:
    candidates = [files.picture(f"{name}{suffix}") for suffix in PICTURE_SUFFIXES]
    return next((path for path in candidates if path.is_file()), candidates[0])
