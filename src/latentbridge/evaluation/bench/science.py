"""ScienceQA (arXiv:2209.09513), AI2D (arXiv:1603.07396) and M3CoT (arXiv:2405.16473): lettered questions.

Formats. ScienceQA: the authors' problems.json with images/SPLIT/ID/image.png, or Parquet of the same fields. AI2D: Parquet
with question, options, answer (an index) and image, or VLMEvalKit's TSV. M3CoT: the authors' test.jsonl with pictures beside
it, or Parquet, with id, question, context, choices, answer (a letter), domain, topic and image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentbridge.evaluation.bench.answers import lettered, option_lines, read_letter
from latentbridge.evaluation.bench.benchmark import Result, judged, require_truth
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.mmbench import tsv_items
from latentbridge.evaluation.bench.pictures import PictureSource
from latentbridge.evaluation.bench.questions import LETTER_REQUEST, QuestionBenchmark, QuestionItem, accuracy
from latentbridge.evaluation.metrics import Score


class ScienceQa(QuestionBenchmark):
    """The test split; questions with a picture are "IMG", the usual score of vision models."""

    def load(self, files: DataFolder) -> list[QuestionItem]:
        if not files.has("problems.json"):
            rows = [row for path in files.find("*test*.parquet", "*.parquet") for row in files.rows(path)]
            return [
                _science_item(str(number), row, files.stored_picture(row.get("image")))
                for number, row in enumerate(rows)
            ]
        path = files.find("problems.json")[0]
        problems = {id: row for id, row in files.json(path).items() if row["split"] == "test"}
        return [_science_item(id, row, _science_picture(files, path, id, row)) for id, row in problems.items()]

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        pictured = [result for result in results if result.group == "IMG"]
        scores = [accuracy("accuracy, IMG", pictured, "questions with a picture")] if pictured else []
        return [*scores, accuracy("accuracy, all", results)]


class Ai2d(QuestionBenchmark):
    """Questions about science diagrams; labels are masked or not as in the file given."""

    def load(self, files: DataFolder) -> list[QuestionItem]:
        if files.has("*.tsv"):
            return tsv_items([row for path in files.find("AI2D*.tsv", "*.tsv")[:1] for row in files.rows(path)])
        rows = [row for path in files.find("*test*.parquet", "*.parquet") for row in files.rows(path)]
        items: list[QuestionItem] = []
        for number, row in enumerate(rows):
            options = lettered([str(option) for option in row["options"]])
            truth = _letter_at(str(number), row["answer"], options)
            prompt = f"{row['question']}\n{option_lines(options)}\n{LETTER_REQUEST}"
            picture = files.stored_picture(row["image"]) or Path(str(number))
            items.append(QuestionItem(str(number), prompt, (picture,), truth, "", options))
        return items


class M3Cot(QuestionBenchmark):
    """Questions that take several steps; the model reasons first. Answers are read by the authors' rules."""

    max_tokens = 512

    def load(self, files: DataFolder) -> list[QuestionItem]:
        items: list[QuestionItem] = []
        for path in files.find("test.jsonl", "*test*.parquet"):
            for row in files.rows(path):
                options = lettered(row["choices"])
                truth = require_truth(row["id"], row["answer"], tuple(options))
                context = f"[Context]\n{row['context']}\n" if row.get("context") else ""
                lines = "\n".join(f"({letter}) {text}" for letter, text in options.items())
                prompt = (
                    f"{context}[Question]\n{row['question']}\n[Choices]\n{lines}\n"
                    "Think step by step, then give the letter of the answer in brackets after [Answer]."
                )
                picture = files.stored_picture(row["image"]) or Path(row["id"])
                group = f"{row['domain']}, {row['topic']}"
                items.append(QuestionItem(row["id"], prompt, (picture,), truth, group, options))
        return items

    def score(self, item: QuestionItem, reply: str) -> Result:
        return judged(item.id, read_m3cot(reply, item), item.truth, reply, item.group)


def read_m3cot(reply: str, item: QuestionItem) -> str | None:
    """Return the last letter in brackets after [Answer]; else the last option whose text or letter occurs."""
    text = reply.rsplit("[Answer]", 1)[-1].split("[Rationale]")[0].split("[Context]")[0]
    if bracketed := [letter.upper() for letter in re.findall(r"\(([A-Za-z])\)", text)]:
        return bracketed[-1] if bracketed[-1] in item.options else None
    if stated := [letter for letter, option in item.options.items() if option.lower() in text.lower()]:
        return stated[-1]
    return read_letter(text, item.options)


def _science_item(id: str, row: dict[str, Any], picture: PictureSource | None) -> QuestionItem:
    options = lettered(row["choices"])
    context = f"Context: {row['hint']}\n" if row.get("hint") else ""
    prompt = f"{context}{row['question']}\n{option_lines(options)}\n{LETTER_REQUEST}"
    truth = _letter_at(id, row["answer"], options)
    pictures, group = ((picture,), "IMG") if picture is not None else ((), "TXT")
    return QuestionItem(id, prompt, pictures, truth, group, options)


def _science_picture(files: DataFolder, problems: Path, id: str, row: dict[str, Any]) -> Path | None:
    if not row.get("image"):
        return None
    folders = (problems.parent / "images" / "test" / id, problems.parent / "test" / id, files.path / "test" / id)
    return next((f / row["image"] for f in folders if (f / row["image"]).is_file()), folders[0] / row["image"])


def _letter_at(id: str, index: Any, options: dict[str, str]) -> str:
    """Return the letter of an option's index; raise UserError for an index without option."""
    numbers = [str(number) for number in range(len(options))]
    return list(options)[int(require_truth(id, index, numbers))]
