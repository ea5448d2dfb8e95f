"""POPE (arXiv:2305.10355): questions whether an object is in a picture, in three samplings of absent objects.

Format: the authors' coco_pope_{random,popular,adversarial}.json, one JSON object a line with question_id, image, text and
label, beside COCO's val2014 pictures; or Parquet with question_id, question, answer, category and image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentbridge.evaluation.bench.answers import read_pope
from latentbridge.evaluation.bench.benchmark import Result, by_group, composite, judged, require_truth
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.questions import SKILL, WORD_REQUEST, QuestionBenchmark, QuestionItem, accuracy
from latentbridge.evaluation.metrics import Score, share

SAMPLINGS = ("random", "popular", "adversarial")


class Pope(QuestionBenchmark):
    """Questions of up to three samplings; ids are sampling/question_id."""

    max_tokens = 16

    def load(self, files: DataFolder) -> list[QuestionItem]:
        items: list[QuestionItem] = []
        for path in files.find("*pope*.json*", "*.parquet"):
            sampling = next((name for name in SAMPLINGS if name in path.stem), path.stem)
            items += [_item(files, sampling, row) for row in files.rows(path)]
        return items

    def score(self, item: QuestionItem, reply: str) -> Result:
        return judged(item.id, read_pope(reply), item.truth, reply, item.group)

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        groups = by_group(results)
        scores = [score for name, members in groups.items() for score in _scores(name, members)]
        if len(groups) == 1:
            return scores
        f1 = composite(
            SKILL,
            "F1, mean of samplings",
            [_counts(m) for m in groups.values()],
            lambda m: np.mean([_f1(x) for x in m], 0),
        )
        return [f1, accuracy("accuracy, all samplings", results), *scores]


def _item(files: DataFolder, sampling: str, row: dict[str, Any]) -> QuestionItem:
    sampling = str(row.get("category") or sampling)
    id = f"{sampling}/{row['question_id']}"
    truth = require_truth(id, str(row.get("label", row.get("answer", ""))).strip().lower(), ("yes", "no"))
    stored = row["image"]
    picture = files.picture(stored) if isinstance(stored, str) else files.stored_picture(stored)
    text = row["text"] if "text" in row else row["question"]
    return QuestionItem(id, f"{text.strip()}\n{WORD_REQUEST}", (picture or Path(id),), truth, sampling)


def _counts(results: Sequence[Result]) -> np.ndarray:
    """Return for each item whether it is a true positive, a false positive, and a positive: [n 3].

    A positive without an answer is not found; an unparsed negative is no positive, but not right either.
    """
    said_yes = [(r.answer if r.status in ("right", "wrong") else "") == "yes" for r in results]
    positive = [r.truth == "yes" for r in results]
    return np.array(
        [[yes and true, yes and not true, true] for yes, true in zip(said_yes, positive, strict=True)], float
    )


def _f1(means: np.ndarray) -> np.ndarray:
    """Return 2 TP / (2 TP + FP + FN), where FN is positives less TP."""
    return 2 * means[..., 0] / (means[..., 0] + means[..., 1] + means[..., 2])


def _scores(name: str, results: Sequence[Result]) -> list[Score]:
    counts = _counts(results)
    said_yes = [bool(row[0] or row[1]) for row in counts]
    return [
        accuracy(f"accuracy, {name}", results),
        composite(SKILL, f"F1, {name}", [counts], lambda m: _f1(m[0])),
        composite(SKILL, f"precision, {name}", [counts], lambda m: m[0][..., 0] / (m[0][..., 0] + m[0][..., 1])),
        composite(SKILL, f"recall, {name}", [counts], lambda m: m[0][..., 0] / m[0][..., 2]),
        share(SKILL, f"answered yes, {name}", said_yes, note="no aim; half of the answers are yes"),
    ]
