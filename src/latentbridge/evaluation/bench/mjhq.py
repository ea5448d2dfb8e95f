"""MJHQ-30K (arXiv:2402.17245): Fréchet distance of pictures drawn from 30,000 prompts to the pictures they came from.

Format: meta_data.json ({id: {category, prompt}}) and mjhq30k_imgs/CATEGORY/ID.jpg. The usual FID takes Inception features;
this one is named after the features of the encoder given, and is comparable only with distances of the same features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.benchmark import Benchmark, Result, missing
from latentbridge.evaluation.bench.cached_model import Failure
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.tools import Tools
from latentbridge.evaluation.metrics import Score, share


@dataclass(frozen=True)
class _Prompt:
    id: str
    prompt: str
    reference: Path
    category: str


class Mjhq(Benchmark[_Prompt]):
    """One picture per prompt; the distance is over all pairs of which both pictures could be had."""

    def __init__(self) -> None:
        self.scores: list[Score] = []

    def load(self, files: DataFolder) -> list[_Prompt]:
        rows = files.json(files.find("meta_data.json")[0])
        return [
            _Prompt(id, row["prompt"], files.picture(f"mjhq30k_imgs/{row['category']}/{id}.jpg"), row["category"])
            for id, row in rows.items()
        ]

    def evaluate(self, items: Sequence[_Prompt], tools: Tools) -> list[Result]:
        drawn = tools.model.draw([item.prompt for item in items], [tools.model.seed] * len(items))
        return [
            missing(item.id, picture.reason, group=item.category)
            if isinstance(picture, Failure)
            else missing(item.id, f"There is no picture {item.reference}.", group=item.category)
            if not item.reference.is_file()
            else Result(item.id, "scored", 1.0, group=item.category)
            for item, picture in zip(items, drawn, strict=True)
        ]

    def finish(self, items: Sequence[_Prompt], results: Sequence[Result], tools: Tools) -> None:
        if not tools.encoders:
            raise UserError("MJHQ needs features; name an encoder with --encoder KIND:FOLDER.")
        whole = [item for item, result in zip(items, results, strict=True) if result.status == "scored"]
        if len(whole) < 2:
            return
        for encoder in tools.encoders:
            drawn, real = (np.zeros((0, 0)), np.zeros((0, 0)))
            for start in range(0, len(whole), 64):
                part = whole[start : start + 64]
                pictures = tools.model.draw([item.prompt for item in part], [tools.model.seed] * len(part))
                made = encoder.features([picture for picture in pictures if not isinstance(picture, Failure)])
                shown = encoder.features([tools.model.pictures.open(item.reference) for item in part])
                drawn = made if start == 0 else np.concatenate([drawn, made])
                real = shown if start == 0 else np.concatenate([real, shown])
            distance = frechet_distance(drawn, real)
            note = f"{len(whole):,} of {len(items):,} pairs; no interval; comparable only for as many pairs"
            row = share("generate", f"FID ({encoder.name})", [True] * len(whole), note=note)
            row = replace(row, value=distance, low=distance, high=distance, unit="points", better="lower", outcomes="")
            self.scores.append(row)

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        done = [result.status == "scored" for result in results]
        return [*self.scores, share("generate", "pictures drawn", done)]


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Fréchet distance of normal distributions fitted to features [n e] and [m e] (arXiv:1706.08500)."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    gap = one.mean(0) - other.mean(0)
    first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (one, other))
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return float(gap @ gap + np.trace(first) + np.trace(second) - 2 * cross)
