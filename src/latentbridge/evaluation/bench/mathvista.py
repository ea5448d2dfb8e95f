"""MathVista (arXiv:2310.02255), testmini.

Format: the hub's Parquet with pid, question, query, choices, answer, question_type, answer_type, precision, metadata and
decoded_image. Two benchmarks: "mathvista-mc" scores the multiple-choice questions by rules alone, where the authors let GPT-4
extract answers and take the option nearest in edit distance; "mathvista" takes all questions, with a judge (`judged.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentbridge.evaluation.bench.answers import lettered
from latentbridge.evaluation.bench.benchmark import Result, require_truth
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.questions import QuestionBenchmark, QuestionItem, accuracy
from latentbridge.evaluation.metrics import Score


class MathVistaChoices(QuestionBenchmark):
    """The multiple-choice questions, scored by rules."""

    max_tokens = 256

    def load(self, files: DataFolder) -> list[QuestionItem]:
        rows = mathvista_rows(files)
        return [_item(files, row) for row in rows if row["question_type"] == "multi_choice"]

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        note = "multiple choice only, rules only; not comparable with scores by GPT-4"
        return [accuracy("accuracy, multiple choice by rules", results, note), *super().aggregate(results)[1:]]


def mathvista_rows(files: DataFolder) -> list[dict[str, Any]]:
    """Return the rows of testmini."""
    return [row for path in files.find("*testmini*.parquet", "*.parquet") for row in files.rows(path)]


def _item(files: DataFolder, row: dict[str, Any]) -> QuestionItem:
    id, options = str(row["pid"]), lettered(row["choices"])
    text = require_truth(id, row["answer"], tuple(options.values()))
    truth = next(letter for letter, option in options.items() if option == text)
    picture = files.stored_picture(row.get("decoded_image") or row["image"]) or Path(id)
    return QuestionItem(id, row["query"], (picture,), truth, row["metadata"]["task"], options)
