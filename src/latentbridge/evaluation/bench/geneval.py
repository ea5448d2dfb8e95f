"""GenEval (arXiv:2310.11513): do objects, counts, colours and places in four pictures per prompt fit the prompt.

Format: evaluation_metadata.jsonl with tag, prompt, include [{class, count, color, position}] and exclude. Objects come from a
transformers detector (`detector.py`) instead of mmdet's Mask2Former, and colours from CLIP on the objects' crops; rules and
thresholds are the authors'. Overall is the mean of the tags' accuracies over pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.benchmark import Benchmark, Result, by_group, composite, missing
from latentbridge.evaluation.bench.cached_model import Failure
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.detector import Detected, surest
from latentbridge.evaluation.bench.tools import Tools, require
from latentbridge.evaluation.metrics import Score, share
from latentbridge.types import Picture, Teacher

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
MOST_OBJECTS = 16
POSITION_MARGIN = 0.1
_BACKGROUND = 0x99
_TEMPLATES = ("a photo of a {} {}", "a photo of a {}-colored {}", "a photo of a {} object")
_PICTURES = 4
_SKILL = "generate"

ColourOf = Callable[[Sequence[Detected], str], list[str]]
"""The colour of each object of a class."""


@dataclass(frozen=True)
class _Sample:
    """One of the pictures of a prompt."""

    id: str
    row: dict[str, Any]
    number: int


class GenEval(Benchmark[_Sample]):
    """553 prompts in six tags, four pictures each, drawn with the seeds s, s + 1, ..."""

    def __init__(self) -> None:
        self._classifiers: dict[str, np.ndarray] = {}

    def load(self, files: DataFolder) -> list[_Sample]:
        rows = files.rows(files.find("evaluation_metadata.jsonl", "*metadata*.jsonl")[0])
        return [
            _Sample(f"{place:05d}/{number}", row, number)
            for place, row in enumerate(rows)
            for number in range(_PICTURES)
        ]

    def prepare(self, items: Sequence[_Sample], tools: Tools) -> None:
        detector, _ = require(tools.detector, "detector"), require(tools.colours, "colours")
        clauses = [clause for item in items for clause in (*item.row["include"], *item.row.get("exclude", ()))]
        unknown = sorted({clause["class"] for clause in clauses} - detector.classes)
        if unknown:
            raise UserError(f"The detector knows no {', '.join(unknown[:5])}; give one of COCO's 80 classes.")

    def evaluate(self, items: Sequence[_Sample], tools: Tools) -> list[Result]:
        detector, clip = require(tools.detector, "detector"), require(tools.colours, "colours")
        seeds = [tools.model.seed + item.number for item in items]
        drawn = tools.model.draw([item.row["prompt"] for item in items], seeds)
        results: list[Result] = []
        for item, picture in zip(items, drawn, strict=True):
            tag = item.row["tag"]
            if isinstance(picture, Failure):
                results.append(missing(item.id, picture.reason, group=tag))
                continue
            threshold = COUNTING_THRESHOLD if tag == "counting" else THRESHOLD
            objects = surest(detector.detect(picture), threshold, MOST_OBJECTS)
            reason = first_fault(item.row, objects, self._colours(picture, clip))
            found = ", ".join(f"{len(members)} {name}" for name, members in objects.items())
            status = "wrong" if reason else "right"
            results.append(Result(item.id, status, float(not reason), found, item.row["prompt"], tag, reason))
        return results

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        groups = {tag: [result.value for result in members] for tag, members in by_group(results).items()}
        note = f"mean of {len(groups)} of 6 tags; thresholds {THRESHOLD} and {COUNTING_THRESHOLD} (counting)"
        overall = composite(_SKILL, "GenEval overall", list(groups.values()), _mean_of_means, note=note)
        return [overall, *(share(_SKILL, f"GenEval {tag}", [v == 1 for v in values]) for tag, values in groups.items())]

    def _colours(self, picture: Picture, clip: Teacher) -> ColourOf:
        def colour_of(objects: Sequence[Detected], name: str) -> list[str]:
            if name not in self._classifiers:
                self._classifiers[name] = colour_classifier(clip, name)
            vectors = clip.embed_pictures([crop(picture, each) for each in objects])
            return [COLOURS[place] for place in (vectors @ self._classifiers[name].T).argmax(axis=1)]

        return colour_of


def colour_classifier(clip: Teacher, name: str) -> np.ndarray:
    """Return a unit vector per colour of a class: the mean of its templates' vectors, float32 [10 e]."""
    texts = [template.format(colour, name) for colour in COLOURS for template in _TEMPLATES]
    vectors = clip.embed_texts(texts).reshape(len(COLOURS), len(_TEMPLATES), -1).mean(axis=1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def crop(picture: Picture, each: Detected) -> Picture:
    """Return the box of an object, grey outside its mask."""
    shown = picture.copy()
    if each.mask is not None:
        shown[~each.mask] = _BACKGROUND
    height, width = picture.shape[:2]
    left, top = (
        int(np.clip(round(value), 0, limit - 1)) for value, limit in zip(each.box[:2], (width, height), strict=True)
    )
    right, bottom = max(left + 1, round(each.box[2])), max(top + 1, round(each.box[3]))
    return shown[top:bottom, left:right]


def first_fault(row: dict[str, Any], objects: dict[str, list[Detected]], colour_of: ColourOf) -> str:
    """Return why a picture does not fit a prompt; "" if it does. All clauses must hold, in the authors' order."""
    fault = ""
    matched: list[list[Detected] | None] = []
    for clause in row["include"]:
        name, count = clause["class"], clause["count"]
        found = objects.get(name, [])[:count]
        problem = ""
        if len(found) < count:
            problem = f"{len(found)} of {count} {name}"
        elif "color" in clause and (colours := colour_of(found, name)).count(clause["color"]) < count:
            problem = f"{name} is {' and '.join(colours)}, not {clause['color']}"
        elif "position" in clause:
            relation, target = clause["position"]
            others = matched[target]
            if others is None:
                problem = f"nothing for {name} to be {relation}"
            elif any(relation not in relations(one, other) for one in found for other in others):
                problem = f"{name} is not {relation} the {row['include'][target]['class']}"
        matched.append(None if problem else found)
        fault = fault or problem
    for clause in row.get("exclude", ()):
        if len(objects.get(clause["class"], [])) >= clause["count"]:
            fault = fault or f"{clause['count']} or more {clause['class']}"
    return fault


def relations(one: Detected, other: Detected) -> set[str]:
    """Return where an object lies by another, in image coordinates, less a margin of a tenth of their sizes."""
    boxes = np.array([one.box, other.box]).reshape(2, 2, 2)
    centres, sizes = boxes.mean(axis=1), np.abs(boxes[:, 1] - boxes[:, 0])
    offset = centres[0] - centres[1]
    beyond = np.maximum(np.abs(offset) - POSITION_MARGIN * sizes.sum(axis=0), 0) * np.sign(offset)
    if (np.abs(beyond) < 1e-3).all():
        return set()
    x, y = beyond / np.linalg.norm(offset)
    named = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in named.items() if holds}


def _mean_of_means(means: Sequence[np.ndarray]) -> np.ndarray:
    return np.mean([mean[..., 0] for mean in means], axis=0)
