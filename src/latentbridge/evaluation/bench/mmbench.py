"""MMBench (arXiv:2307.06281) and MMStar (arXiv:2403.20330).

Format: VLMEvalKit's TSV with index, question, hint, A to D, answer, category, l2-category and image as base64; MMStar also as
the authors' Parquet, whose question contains the options. MMBench asks every question once per rotation of its options;
rotations share index modulo 1,000,000, and a question counts as right only if every rotation is (CircularEval).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.answers import LETTERS, option_lines
from latentbridge.evaluation.bench.benchmark import Result, by_group, complete_groups, require_truth
from latentbridge.evaluation.bench.data_folder import DataFolder, base64_pictures
from latentbridge.evaluation.bench.questions import SKILL, QuestionBenchmark, QuestionItem, accuracy
from latentbridge.evaluation.metrics import Score, share

_ROTATION = 1_000_000
_SELECT = "Please select the correct answer from the options above."
_MISSING = ("", "nan", "NaN", "None")


class MmBench(QuestionBenchmark):
    """CircularEval over the rotations of each question, and the accuracy of the unrotated ones."""

    def load(self, files: DataFolder) -> list[QuestionItem]:
        rows = [row for path in files.find("MMBench*.tsv", "mmbench*.tsv", "*.tsv")[:1] for row in files.rows(path)]
        items = tsv_items(rows)
        order = {key: number for number, key in enumerate(dict.fromkeys(_question(item.id) for item in items))}
        return sorted(items, key=lambda item: (order[_question(item.id)], int(item.id)))

    def first(self, items: Sequence[QuestionItem], limit: int) -> list[QuestionItem]:
        return complete_groups(items, [_question(item.id) for item in items], limit)

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        questions: dict[str, list[Result]] = {}
        for result in results:
            questions.setdefault(_question(result.id), []).append(result)
        whole = {key: all(r.status == "right" for r in group) for key, group in questions.items()}
        rotated = sum(len(group) > 1 for group in questions.values())
        note = f"all rotations right; {rotated:,} of {len(questions):,} questions are rotated"
        plain = [group[0] for group in questions.values()]
        scores = [
            share(SKILL, "accuracy, circular", list(whole.values()), note=note),
            accuracy("accuracy, options unrotated", plain),
        ]
        for category, members in by_group(plain).items():
            right = [whole[_question(member.id)] for member in members]
            scores.append(share(SKILL, f"accuracy, circular, {category}", right))
        return scores


class MmStar(QuestionBenchmark):
    """1,500 questions in six categories."""

    def load(self, files: DataFolder) -> list[QuestionItem]:
        if files.has("*.tsv"):
            return tsv_items([row for path in files.find("MMStar*.tsv", "*.tsv")[:1] for row in files.rows(path)])
        return [_parquet_item(files, row) for path in files.find("*.parquet") for row in files.rows(path)]


def tsv_items(rows: list[dict[str, Any]]) -> list[QuestionItem]:
    """Return the items of a TSV in VLMEvalKit's format, with its prompt."""
    pictures = base64_pictures(rows)
    items: list[QuestionItem] = []
    for row, picture in zip(rows, pictures, strict=True):
        options = {letter: row[letter] for letter in LETTERS if (row.get(letter) or "") not in _MISSING}
        id = str(row["index"])
        if not id.isdigit():
            raise UserError(f"The index {id!r} is no number; download the benchmark again.")
        truth = require_truth(id, (row.get("answer") or "").strip(), tuple(options))
        hint = f"Hint: {row['hint']}\n" if (row.get("hint") or "") not in _MISSING else ""
        prompt = f"{hint}Question: {row['question']}\nOptions:\n{option_lines(options)}\n{_SELECT}"
        items.append(QuestionItem(id, prompt, (picture,), truth, str(row.get("category") or ""), options))
    return items


def _parquet_item(files: DataFolder, row: dict[str, Any]) -> QuestionItem:
    id = str(row["index"])
    truth = require_truth(id, str(row["answer"]).strip(), LETTERS[:4])
    question = row["question"]
    options = dict.fromkeys(LETTERS[:4], "")
    for letter, following in zip(LETTERS[:4], (*LETTERS[1:4], ""), strict=True):
        start = question.rfind(f"{letter}: ")
        end = question.rfind(f", {following}: ") if following else len(question)
        options[letter] = question[start + 3 : end].strip() if 0 <= start < end else ""
    picture = files.stored_picture(row["image"]) or Path(id)
    return QuestionItem(id, f"{question}\n{_SELECT}", (picture,), truth, str(row.get("category") or ""), options)


def _question(id: str) -> str:
    return str(int(id) % _ROTATION)
