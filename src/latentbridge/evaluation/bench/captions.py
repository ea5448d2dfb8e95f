"""Retrieval between pictures and captions: Flickr30K and COCO (Karpathy's test splits), and ECCV Caption.

Formats. Flickr30K and COCO: Karpathy's dataset_flickr30k.json or dataset_coco.json, and the pictures in any folder below. ECCV
Caption (arXiv:2204.03359): eccv_image_to_caption.json and eccv_caption_to_image.json of the authors' package beside
dataset_coco.json, and coco_test_ids.npy if the captions searched are to be exactly theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentbridge.evaluation.bench.benchmark import Result, by_group
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.pictures import PictureSource
from latentbridge.evaluation.bench.retrieval import (
    Gallery,
    Query,
    RetrievalBenchmark,
    hits,
    map_at_r,
    mean_measure,
    rank_all,
    recall,
    recalls_sum,
)
from latentbridge.evaluation.bench.tools import Tools
from latentbridge.evaluation.metrics import Score

TO_TEXT, TO_PICTURE = "picture to text", "text to picture"
_DEPTHS = (1, 5, 10)
_CAPTIONS = 5
"""Captions of a picture that are used; a few of COCO's have six or seven."""


class _CaptionRetrieval(RetrievalBenchmark):
    """Pictures and captions by id, searched in both directions."""

    def __init__(self) -> None:
        self.pictures: dict[str, PictureSource] = {}
        self.captions: dict[str, str] = {}
        self.galleries: dict[str, Gallery] = {}

    def prepare(self, items: Sequence[Query], tools: Tools) -> None:
        self.galleries = {
            TO_TEXT: Gallery(tools.model, "text", self.captions),
            TO_PICTURE: Gallery(tools.model, "image", self.pictures),
        }

    def evaluate(self, items: Sequence[Query], tools: Tools) -> list[Result]:
        return rank_all(self, items, self.galleries, tools)


class Karpathy(_CaptionRetrieval):
    """The test split of "flickr30k" (1,000 pictures) or "coco" (5,000), five captions each."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def load(self, files: DataFolder) -> list[Query]:
        queries: list[Query] = []
        for row in karpathy_rows(files, self.name):
            picture, captions = f"picture {row['filename']}", _captions(row)
            self.pictures[picture] = picture_of(files, row)
            self.captions |= captions
            queries.append(Query(picture, TO_TEXT, tuple(captions), picture=self.pictures[picture]))
            queries += [Query(id, TO_PICTURE, (picture,), text=text) for id, text in captions.items()]
        return queries

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        groups = by_group(results)
        scores = [recall(groups[g], k, f"{g} R@{k}") for g in (TO_TEXT, TO_PICTURE) if g in groups for k in _DEPTHS]
        note = f"of {100 * len(_DEPTHS) * len(groups)}; five captions a picture"
        return [*scores, recalls_sum("RSUM", list(groups.values()), _DEPTHS, note)]


class EccvCaption(_CaptionRetrieval):
    """COCO's 5,000 test pictures and 25,000 captions with the positives that machines and people found."""

    def load(self, files: DataFolder) -> list[Query]:
        allowed: set[str] | None = None
        if files.has("coco_test_ids.npy"):
            allowed = {str(int(id)) for id in files.array(files.find("coco_test_ids.npy")[0])}
        for row in karpathy_rows(files, "coco"):
            self.pictures[f"picture {row['cocoid']}"] = picture_of(files, row)
            sentences = row["sentences"] if allowed else row["sentences"][:_CAPTIONS]
            self.captions |= {
                f"caption {s['sentid']}": s["raw"] for s in sentences if not allowed or str(s["sentid"]) in allowed
            }
        to_text = files.json(files.find("eccv_image_to_caption.json")[0])
        to_picture = files.json(files.find("eccv_caption_to_image.json")[0])
        queries: list[Query] = []
        for id, positives in to_text.items():
            named = tuple(f"caption {each}" for each in positives)
            queries.append(Query(f"picture {id}", TO_TEXT, named, picture=self.pictures.get(f"picture {id}")))
        for id, positives in to_picture.items():
            named = tuple(f"picture {each}" for each in positives)
            queries.append(Query(f"caption {id}", TO_PICTURE, named, text=self.captions.get(f"caption {id}")))
        return queries

    def further_measures(
        self, query: Query, gallery: Gallery, similarities: np.ndarray, positives: list[int]
    ) -> dict[str, float]:
        count = len(set(query.positives))
        found = hits(similarities, positives, count)
        return {"mAP@R": map_at_r(found, count), "R-precision": float(found.sum() / count)}

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        scores: list[Score] = []
        for group, members in by_group(results).items():
            scores.append(mean_measure(members, "mAP@R", f"{group} mAP@R"))
            scores.append(mean_measure(members, "R-precision", f"{group} R-precision"))
            scores.append(recall(members, 1, f"{group} R@1"))
        return scores


def karpathy_rows(files: DataFolder, name: str) -> list[dict[str, Any]]:
    """Return the test pictures of Karpathy's JSON."""
    document = files.json(files.find(f"dataset_{name}.json")[0])
    return [row for row in document["images"] if row["split"] == "test"]


def picture_of(files: DataFolder, row: dict[str, Any]) -> PictureSource:
    """Return the path of a picture; COCO's rows name its folder."""
    return files.picture("/".join(part for part in (row.get("filepath"), row["filename"]) if part))


def _captions(row: dict[str, Any]) -> dict[str, str]:
    return {f"caption {sentence['sentid']}": sentence["raw"] for sentence in row["sentences"][:_CAPTIONS]}
