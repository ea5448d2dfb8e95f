"""MMMU (arXiv:2311.16502), validation: 900 college questions in 30 subjects, some with up to seven pictures.

Format: the hub's Parquet per subject with id, question, options (a list written as text), answer, question_type and image_1
to image_7. All pictures that question or options name are shown, in order; the text keeps "<image 1>".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.answers import (
    lettered,
    open_answer_is_right,
    option_lines,
    read_last_letter,
    read_open,
)
from latentbridge.evaluation.bench.benchmark import Result, by_group, judged, require_truth
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.questions import (
    LETTER_REQUEST,
    WORD_REQUEST,
    QuestionBenchmark,
    QuestionItem,
    accuracy,
)
from latentbridge.evaluation.metrics import Score

_SEPARATOR = "\x1f"
"""Between the answers of an open question that has several, in `QuestionItem.truth`."""


class Mmmu(QuestionBenchmark):
    """Lettered questions, and open ones matched by the authors' rules."""

    max_tokens = 128

    def load(self, files: DataFolder) -> list[QuestionItem]:
        paths = files.find("*validation*.parquet", "*dev*.parquet", "*.parquet")
        return [_item(files, row) for path in paths for row in files.rows(path)]

    def score(self, item: QuestionItem, reply: str) -> Result:
        if item.options:
            return judged(item.id, read_last_letter(reply, item.options), item.truth, reply, item.group)
        candidates = read_open(reply)
        truths = item.truth.split(_SEPARATOR)
        shown = " or ".join(truths)
        if not candidates:
            return judged(item.id, None, shown, reply, item.group)
        answer = shown if open_answer_is_right(candidates, truths) else "; ".join(map(str, candidates))
        return judged(item.id, answer, shown, reply, item.group)

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        subjects = by_group(results)
        scores = [accuracy("accuracy", results)]
        return [*scores, *(accuracy(f"accuracy, {subject}", members) for subject, members in subjects.items())]


def _item(files: DataFolder, row: dict[str, Any]) -> QuestionItem:
    id, question = row["id"], row["question"]
    try:
        texts = [str(option) for option in ast.literal_eval(row["options"] or "[]")]
    except (ValueError, SyntaxError) as error:
        raise UserError(f"{id} has options that are no list ({row['options']!r}); download MMMU again.") from error
    is_lettered = row["question_type"] == "multiple-choice"
    options = lettered(texts) if is_lettered else {}
    if is_lettered:
        truth = require_truth(id, row["answer"], tuple(options))
        prompt = f"{question}\n{option_lines(options)}\n\n{LETTER_REQUEST}"
    else:
        truth = _SEPARATOR.join(_open_truths(id, row["answer"]))
        prompt = f"{question}\n\n{WORD_REQUEST}"
    numbers = sorted({int(number) for number in re.findall(r"<image (\d+)>", " ".join([question, *texts]))}) or [1]
    pictures = tuple(files.stored_picture(row.get(f"image_{n}")) or Path(f"{id}/image_{n}") for n in numbers)
    subject = re.sub(r"^[a-z]+_|_\d+$", "", id)
    return QuestionItem(id, prompt, pictures, truth, subject, options)


def _open_truths(id: str, answer: Any) -> list[str]:
    """Return the answers of an open question, one or a list written as text; raise UserError for none."""
    text = str(answer).strip()
    if text.startswith("["):
        try:
            return [str(each) for each in ast.literal_eval(text)]
        except (ValueError, SyntaxError):
            return [text]
    if text in ("", "?", "None"):
        raise UserError(f"{id} has no answer ({answer!r}); use the split validation.")
    return [text]
