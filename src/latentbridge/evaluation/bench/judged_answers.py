"""Benchmarks of answers with a judge: MM-Vet (arXiv:2308.02490) and MathVista with its free-form questions.

Formats. MM-Vet: mm-vet.json ({id: {imagename, question, answer, capability}}) and images/. MathVista: as in `mathvista.py`.
What the judge is asked is our wording.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentbridge.evaluation.bench.answers import lettered, read_letter
from latentbridge.evaluation.bench.benchmark import Result, judged, missing
from latentbridge.evaluation.bench.cached_model import Failure, Question
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.judge import Judgement
from latentbridge.evaluation.bench.judged import JudgedBenchmark, judge_of, unjudged
from latentbridge.evaluation.bench.judged_pictures import JudgedItem
from latentbridge.evaluation.bench.mathvista import mathvista_rows
from latentbridge.evaluation.bench.tools import Tools
from latentbridge.evaluation.metrics import Score

_GRADE_REQUEST = (
    "Grade a prediction against the truth from 0.0 (wrong) to 1.0 (right), in steps of 0.1. <AND> joins parts that are all "
    "needed, <OR> joins alternatives.\nQuestion: {question}\nTruth: {truth}\nPrediction: {answer}\nAnswer with the number alone."
)
_EXTRACT_REQUEST = (
    "Extract the final answer from a reply, without units or explanation.\nQuestion: {question}\nReply: {answer}\n"
    'Answer with one line: "Answer: ..." - or "Answer: none" if the reply has no answer.'
)


class MmVet(JudgedBenchmark[JudgedItem]):
    """218 open questions that combine six capabilities, graded from 0 to 1."""

    skill = "understand"

    def load(self, files: DataFolder) -> list[JudgedItem]:
        rows = files.json(files.find("mm-vet.json")[0])
        return [
            JudgedItem(
                id,
                row["question"],
                "+".join(sorted(row["capability"])),
                row,
                files.picture(f"images/{row['imagename']}"),
            )
            for id, row in rows.items()
        ]

    def calls(self, item: JudgedItem) -> list[tuple[str, int]]:
        return [(self._request(item, ""), 0)]

    def _request(self, item: JudgedItem, answer: str) -> str:
        return _GRADE_REQUEST.format(question=item.prompt, truth=item.row["answer"], answer=answer)

    def evaluate(self, items: Sequence[JudgedItem], tools: Tools) -> list[Result]:
        replies = _replies(items, tools)
        answered = [(i, r) for i, r in zip(items, replies, strict=True) if isinstance(r, str)]
        judgements = [Judgement(self._request(item, reply), max_tokens=8) for item, reply in answered]
        grades = iter(judge_of(tools).ask(judgements, read_grade))
        results: list[Result] = []
        for item, reply in zip(items, replies, strict=True):
            grade = reply if isinstance(reply, Failure) else next(grades)
            if isinstance(reply, Failure):
                results.append(missing(item.id, reply.reason, item.row["answer"], item.group))
            elif isinstance(grade, Failure):
                results.append(unjudged(item.id, grade, item.group, reply))
            else:
                results.append(Result(item.id, "scored", grade, reply, item.row["answer"], item.group))  # pyright: ignore[reportArgumentType]
        return results

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        capabilities = sorted({name for result in results for name in result.group.split("+")})
        scores = [self.mean("MM-Vet", results, "one run; the authors average five")]
        for name in capabilities:
            scores.append(self.mean(f"MM-Vet {name}", [r for r in results if name in r.group.split("+")]))
        return scores


class MathVista(JudgedBenchmark[JudgedItem]):
    """All 1,000 questions: a judge extracts each answer, which is compared with the truth as a letter, number or text."""

    skill = "understand"

    def load(self, files: DataFolder) -> list[JudgedItem]:
        items: list[JudgedItem] = []
        for row in mathvista_rows(files):
            picture = files.stored_picture(row.get("decoded_image") or row["image"]) or Path(str(row["pid"]))
            kept = {key: row.get(key) for key in ("choices", "answer", "question_type", "answer_type", "precision")}
            items.append(JudgedItem(str(row["pid"]), row["query"], row["metadata"]["task"], kept, picture))
        return items

    def calls(self, item: JudgedItem) -> list[tuple[str, int]]:
        return [(_EXTRACT_REQUEST.format(question=item.prompt, answer=""), 0)]

    def evaluate(self, items: Sequence[JudgedItem], tools: Tools) -> list[Result]:
        replies = _replies(items, tools)
        answered = [(i, r) for i, r in zip(items, replies, strict=True) if isinstance(r, str)]
        requests = [_EXTRACT_REQUEST.format(question=item.prompt, answer=reply) for item, reply in answered]
        extracted = iter(judge_of(tools).ask([Judgement(text, max_tokens=64) for text in requests], read_extracted))
        results: list[Result] = []
        for item, reply in zip(items, replies, strict=True):
            truth = str(item.row["answer"])
            if isinstance(reply, Failure):
                results.append(missing(item.id, reply.reason, truth, item.group))
                continue
            answer = next(extracted)
            if isinstance(answer, Failure):
                results.append(unjudged(item.id, answer, item.group, reply))
            else:
                results.append(judged(item.id, normal_answer(answer, item.row), truth, reply, item.group))
        return results

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        return self.means("MathVista", results, "no nearest option: an answer that is none of the options is wrong")


def read_grade(answer: str) -> float | None:
    """Return a number from 0 to 1 that is the whole answer, or its first word."""
    words = answer.split()
    if not words or not re.fullmatch(r"(?:0|1)(?:\.\d+)?\.?", words[0]):
        return None
    grade = float(words[0].rstrip("."))
    return grade if 0 <= grade <= 1 else None


def read_extracted(answer: str) -> str | None:
    """Return what follows "Answer:"; "" for none, and None for an answer without it."""
    found = re.search(r"Answer:\s*(.*)", answer)
    if found is None:
        return None
    text = found[1].strip().strip('"')
    return "" if text.rstrip(".").lower() == "none" else text


def normal_answer(answer: str, row: dict[str, Any]) -> str | None:
    """Return an extracted answer in the form of the truth; None if it is not of the question's kind."""
    if row["question_type"] == "multi_choice":
        options = lettered(row["choices"])
        letter = read_letter(answer, options)
        return options[letter] if letter else None
    try:
        if row["answer_type"] == "integer":
            return str(int(float(answer.replace(",", ""))))
        if row["answer_type"] == "float":
            return str(round(float(answer.replace(",", "")), int(row["precision"] or 0)))
    except (ValueError, OverflowError):
        return None
    return answer or None


def _replies(items: Sequence[JudgedItem], tools: Tools) -> list[str | Failure]:
    questions = [Question(item.prompt, () if item.picture is None else (item.picture,)) for item in items]
    return tools.model.reply(questions, max_tokens=512)
