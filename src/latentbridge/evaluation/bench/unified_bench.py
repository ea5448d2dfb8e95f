"""Unified-Bench (UAE, arXiv:2509.09666): a picture is captioned, the caption drawn, and the two pictures compared.

Format: the folder Image/ with pictures. The caption request is our own wording of UAE's; captions are sampled at temperature
0.7 with at most 1,000 tokens and drawn as they are. A picture that could not be redrawn counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.benchmark import Benchmark, Result, missing
from latentbridge.evaluation.bench.cached_model import Failure, Question
from latentbridge.evaluation.bench.data_folder import PICTURE_SUFFIXES, DataFolder
from latentbridge.evaluation.bench.tools import Tools
from latentbridge.evaluation.metrics import Score, average

CAPTION_REQUEST = (
    "Describe this picture completely, so that it could be redrawn from your words alone: objects, counts, colours, places, "
    "background and style. Quote any text that is visible."
)
_MEAN = "mean of encoders"


@dataclass(frozen=True)
class _Reference:
    id: str
    path: Path


class UnifiedBench(Benchmark[_Reference]):
    """Cosine of each picture and its redrawing, by each encoder given."""

    def load(self, files: DataFolder) -> list[_Reference]:
        folder = files.path / "Image" if (files.path / "Image").is_dir() else files.path
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
        return [_Reference(path.name, path) for path in paths]

    def evaluate(self, items: Sequence[_Reference], tools: Tools) -> list[Result]:
        if not tools.encoders:
            raise UserError("Unified-Bench needs a grading model; name one or more with --encoder KIND:FOLDER.")
        model = tools.model
        questions = [Question(CAPTION_REQUEST, (item.path,)) for item in items]
        captions = model.reply(questions, temperature=0.7, max_tokens=1000)
        texts = [caption for caption in captions if isinstance(caption, str)]
        drawn = iter(model.draw(texts, [model.seed] * len(texts), rewrite=False))
        redrawn = [next(drawn) if isinstance(caption, str) else caption for caption in captions]
        results: list[Result] = []
        for item, caption, picture in zip(items, captions, redrawn, strict=True):
            if isinstance(picture, Failure):
                results.append(missing(item.id, picture.reason))
                continue
            pair = [model.pictures.open(item.path), picture]
            cosines: dict[str, float] = {}
            for encoder in tools.encoders:
                one, two = encoder.unit_vectors(pair)
                cosines[encoder.name] = float(one @ two)
            mean = sum(cosines.values()) / len(cosines)
            results.append(Result(item.id, "scored", mean, str(caption), measures=cosines))
        return results

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        names = list(dict.fromkeys(name for result in results for name in result.measures))
        rows = {_MEAN: [result.value for result in results]}
        rows |= {name: [result.measures.get(name, 0.0) for result in results] for name in names}
        return [
            average("consistency", f"Unified-Bench cosine, {name}", values, "cosine", note=f"lowest {min(values):.3f}")
            for name, values in rows.items()
        ]
