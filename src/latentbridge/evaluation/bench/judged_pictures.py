"""Benchmarks of pictures with a judge: WISE, ImgEdit, GEdit and UEval.

Formats. WISE (arXiv:2503.07265): JSON lists of prompt_id, Prompt, Explanation; "wise" takes the release of 2025 with three
scores, "wise-verified" that of 2026 with one. ImgEdit (arXiv:2505.20275): basic_edit.json and prompts.json beside the
pictures. GEdit (arXiv:2504.17761): Parquet with key, task_type, instruction, instruction_language and input_image. UEval
(arXiv:2601.22155): Parquet with id, prompt, task_type, text_rubrics and image_rubrics. What the judge is asked is our wording,
but for ImgEdit, whose prompts.json is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.benchmark import Result, by_group, composite, missing
from latentbridge.evaluation.bench.cached_model import Failure, Question
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.judge import Judgement
from latentbridge.evaluation.bench.judged import JudgedBenchmark, judge_of, read_object, read_whole_numbers, unjudged
from latentbridge.evaluation.bench.pictures import PictureSource
from latentbridge.evaluation.bench.tools import Tools
from latentbridge.evaluation.metrics import Score
from latentbridge.images import resize

_WISE_LABELS = ("Consistency", "Realism", "Aesthetic Quality")
_WISE_ENDS = {
    "": (("culture", 400), ("time", 567), ("space", 700), ("biology", 800), ("physics", 900), ("chemistry", 1000)),
    "verified": (
        ("culture", 400),
        ("time", 520),
        ("space", 640),
        ("biology", 760),
        ("physics", 880),
        ("chemistry", 1000),
    ),
}
"""Last prompt_id of each category, by release."""
_WISE_REQUEST = (
    "You grade a generated picture strictly.\nPrompt: {prompt}\nWhat the prompt means: {explanation}\n{scale}\n"
    "Answer with nothing but the line(s):\n{lines}"
)
_WISE_SCALES = {
    "": "Grade from 0 (fails) over 1 (partly) to 2 (fully): Consistency, does it show all that the prompt means; Realism, is it "
    "physically plausible; Aesthetic Quality, is it well made. Give 2 rarely.",
    "verified": "Score 1 if the picture shows what the prompt means, is realistic and usable; otherwise 0.",
}
_SC_REQUEST = (
    "The second picture should be the first, edited as told: {instruction}\nGrade from 0 to 10 how well the instruction was "
    'followed, and from 0 to 10 how well everything else was kept. Answer with JSON: {{"score": [followed, kept]}}'
)
_PQ_REQUEST = (
    "Grade from 0 to 10 how natural the picture looks, and from 0 to 10 how free it is of artefacts. "
    'Answer with JSON: {"score": [natural, free of artefacts]}'
)
_RUBRIC_REQUEST = (
    "Question: {question}\n{shown}\nRubric: {rubric}\nIs the rubric fully met? Answer with JSON: "
    '{{"criteria_met": true}}, {{"criteria_met": false}} or {{"criteria_met": "not sure"}}.'
)


@dataclass(frozen=True)
class JudgedItem:
    """A prompt or an edit that a judge grades."""

    id: str
    prompt: str
    group: str
    row: dict[str, Any]
    picture: PictureSource | None = None


class Wise(JudgedBenchmark[JudgedItem]):
    """World knowledge in pictures: WiScore, (0.7 consistency + 0.2 realism + 0.1 aesthetics) / 2, or 0 and 1 when verified."""

    def __init__(self, release: str = "") -> None:
        super().__init__()
        self.release = release

    def load(self, files: DataFolder) -> list[JudgedItem]:
        names = ("cultural_common_sense", "natural_science", "spatio-temporal_reasoning")
        end = f"_{self.release}.json" if self.release else ".json"
        rows = [row for name in names if files.has(f"{name}{end}") for row in files.json(files.find(f"{name}{end}")[0])]
        rows.sort(key=lambda row: row["prompt_id"])
        return [JudgedItem(str(row["prompt_id"]), row["Prompt"], self._category(row["prompt_id"]), row) for row in rows]

    def _category(self, number: int) -> str:
        for name, last in _WISE_ENDS[self.release]:
            if number <= last:
                return name
        raise UserError(f"WISE has no prompt {number}; download it again.")

    def calls(self, item: JudgedItem) -> list[tuple[str, int]]:
        return [(self._request(item), 1)]

    def _request(self, item: JudgedItem) -> str:
        lines = "Score: 0 or 1" if self.release else "\n".join(f"{label}: 0, 1 or 2" for label in _WISE_LABELS)
        return _WISE_REQUEST.format(
            prompt=item.prompt, explanation=item.row["Explanation"], scale=_WISE_SCALES[self.release], lines=lines
        )

    def read(self, answer: str) -> float | None:
        """Return the WiScore of an answer; None if it is not exactly what was asked for."""
        if self.release:
            numbers = read_whole_numbers(answer, ("Score",), 0, 1)
            return float(numbers[0]) if numbers else None
        numbers = read_whole_numbers(answer, _WISE_LABELS, 0, 2)
        return sum(w * n for w, n in zip((0.7, 0.2, 0.1), numbers, strict=True)) / 2 if numbers else None

    def evaluate(self, items: Sequence[JudgedItem], tools: Tools) -> list[Result]:
        drawn = tools.model.draw([item.prompt for item in items], [tools.model.seed] * len(items))
        judged = [(i, p) for i, p in zip(items, drawn, strict=True) if not isinstance(p, Failure)]
        values = iter(judge_of(tools).ask([Judgement(self._request(i), (p,)) for i, p in judged], self.read))
        return [
            missing(item.id, picture.reason, group=item.group)
            if isinstance(picture, Failure)
            else _scored(item, next(values))
            for item, picture in zip(items, drawn, strict=True)
        ]

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        return self.means("WiScore", results)


class ImgEdit(JudgedBenchmark[JudgedItem]):
    """Single edits of nine types: the mean of the judge's three grades from 1 to 5; a failure is 0."""

    skill = "edit"
    unit = "points"

    def load(self, files: DataFolder) -> list[JudgedItem]:
        requests = files.json(files.find("prompts.json")[0])
        items: list[JudgedItem] = []
        for key, row in files.json(files.find("basic_edit.json")[0]).items():
            kind = row["edit_type"]
            if kind not in requests:
                raise UserError(f"prompts.json has no request for {kind}; download ImgEdit again.")
            full = {**row, "request": requests[kind].replace("<edit_prompt>", row["prompt"])}
            items.append(JudgedItem(key, row["prompt"], kind, full, files.picture(row["id"])))
        return items

    def calls(self, item: JudgedItem) -> list[tuple[str, int]]:
        return [(item.row["request"], 2)]

    def evaluate(self, items: Sequence[JudgedItem], tools: Tools) -> list[Result]:
        edited = _edited(items, tools)
        judged = [(i, p) for i, p in zip(items, edited, strict=True) if not isinstance(p, Failure)]
        judgements = [Judgement(i.row["request"], (i.picture, p)) for i, p in judged if i.picture is not None]
        values = iter(judge_of(tools).ask(judgements, read_three_grades))
        return [
            missing(item.id, picture.reason, group=item.group)
            if isinstance(picture, Failure)
            else _scored(item, next(values))
            for item, picture in zip(items, edited, strict=True)
        ]

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        return self.means("ImgEdit basic", results, "of 5")


class GEdit(JudgedBenchmark[JudgedItem]):
    """Edits in eleven groups and two languages: the root of semantic times perceptual quality, each the worst of two grades."""

    skill = "edit"
    unit = "points"

    def load(self, files: DataFolder) -> list[JudgedItem]:
        items: list[JudgedItem] = []
        for path in files.find("*.parquet"):
            for row in files.rows(path):
                kept = {key: row[key] for key in ("instruction_language", "task_type")}
                group = f"{row['instruction_language']}/{row['task_type']}"
                picture = files.stored_picture(row.get("input_image_raw") or row["input_image"]) or Path(row["key"])
                items.append(JudgedItem(row["key"], row["instruction"], group, kept, picture))
        return items

    def calls(self, item: JudgedItem) -> list[tuple[str, int]]:
        return [(_SC_REQUEST.format(instruction=item.prompt), 2), (_PQ_REQUEST, 1)]

    def evaluate(self, items: Sequence[JudgedItem], tools: Tools) -> list[Result]:
        results: list[Result] = []
        for item, picture in zip(items, _edited(items, tools), strict=True):
            if isinstance(picture, Failure) or item.picture is None:
                reason = picture.reason if isinstance(picture, Failure) else "no picture"
                results.append(missing(item.id, reason, group=item.group))
                continue
            height, width = tools.model.pictures.open(item.picture).shape[:2]
            picture = resize(picture, (width, height), Image.Resampling.BICUBIC)  # as the authors show it
            followed = Judgement(_SC_REQUEST.format(instruction=item.prompt), (item.picture, picture))
            semantic, perceptual = judge_of(tools).ask([followed, Judgement(_PQ_REQUEST, (picture,))], read_two_grades)
            failure = next((part for part in (semantic, perceptual) if isinstance(part, Failure)), None)
            if failure is not None:
                results.append(unjudged(item.id, failure, item.group))
                continue
            measures = {"semantic": min(semantic), "perceptual": min(perceptual)}  # pyright: ignore[reportArgumentType]
            overall = math.sqrt(measures["semantic"] * measures["perceptual"])
            results.append(Result(item.id, "scored", overall, group=item.group, measures=measures))
        return results

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        scores: list[Score] = []
        for language in dict.fromkeys(result.group.split("/")[0] for result in results):
            groups = by_group([result for result in results if result.group.startswith(f"{language}/")])
            rows = [
                [[r.value, r.measures.get("semantic", 0.0), r.measures.get("perceptual", 0.0)] for r in members]
                for members in groups.values()
            ]
            for place, name in enumerate(("overall", "semantic", "perceptual")):
                columns = [[row[place] for row in members] for members in rows]
                metric = f"GEdit {language} {name} (judge {self.judge_name})"
                note = f"of 10; mean of {len(groups)} groups"
                scores.append(composite("edit", metric, columns, _mean_of_groups, "points", note))
        return scores


class UEval(JudgedBenchmark[JudgedItem]):
    """Questions answered by text and picture: the share of rubrics met, of texts and of pictures; "not sure" is not met."""

    def load(self, files: DataFolder) -> list[JudgedItem]:
        rows = [row for path in files.find("*test*.parquet", "*.parquet") for row in files.rows(path)]
        return [
            JudgedItem(
                str(row["id"]),
                row["prompt"],
                row.get("task_type") or "",
                {side: [rubric["criterion"] for rubric in row[f"{side}_rubrics"] or []] for side in ("text", "image")},
            )
            for row in rows
        ]

    def calls(self, item: JudgedItem) -> list[tuple[str, int]]:
        return [(_rubric_request(item, rubric, ""), 0) for rubric in item.row["text"]] + [
            (_rubric_request(item, rubric, ""), 1) for rubric in item.row["image"]
        ]

    def evaluate(self, items: Sequence[JudgedItem], tools: Tools) -> list[Result]:
        texts = tools.model.reply([Question(item.prompt) for item in items], max_tokens=1000)
        answers = ["" if isinstance(text, Failure) else text for text in texts]
        prompts = [f"{item.prompt}\n{answer}" for item, answer in zip(items, answers, strict=True)]
        drawn = tools.model.draw(prompts, [tools.model.seed] * len(items))
        rows = zip(items, texts, drawn, strict=True)
        return [self._grade(item, text, picture, tools) for item, text, picture in rows]

    def _grade(self, item: JudgedItem, text: str | Failure, picture: Any, tools: Tools) -> Result:
        measures: dict[str, float] = {}
        failures: list[str] = []
        for side, made in (("text", text), ("image", picture)):
            rubrics = item.row[side]
            if not rubrics:
                continue
            measures[side] = 0.0
            if isinstance(made, Failure):
                failures.append(made.reason)
                continue
            pictures: tuple[PictureSource, ...] = (made,) if isinstance(made, np.ndarray) else ()
            shown = "The picture is the answer." if pictures else f"Answer: {made}"
            judgements = [Judgement(_rubric_request(item, rubric, shown), pictures, 128) for rubric in rubrics]
            met = judge_of(tools).ask(judgements, read_met)
            failures += [each.reason for each in met if isinstance(each, Failure)]
            measures[side] = sum(each for each in met if not isinstance(each, Failure)) / len(rubrics)
        value = sum(measures.values()) / max(1, len(measures))
        if failures and not any(measures.values()):
            return replace(unjudged(item.id, Failure(failures[0]), item.group), measures=measures)
        reason = f"{len(failures)} failed: {failures[0]}" if failures else ""
        return Result(item.id, "scored", value, str(text), group=item.group, reason=reason, measures=measures)

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        rates = [replace(r, value=value, group=side) for r in results for side, value in r.measures.items()]
        return [*self.means("UEval, rubrics met", rates), *self.means("UEval items", results)[1:]]


def read_three_grades(answer: str) -> float | None:
    """Return the mean of exactly three lines "criterion: n" with n from 1 to 5."""
    found = [int(number) for number in re.findall(r"(?m)^[^:\n]+:\s*\**(\d+)\**\s*(?:/\s*5)?\s*$", answer)]
    return sum(found) / 3 if len(found) == 3 and all(1 <= number <= 5 for number in found) else None


def read_two_grades(answer: str) -> list[float] | None:
    """Return the list "score" of a JSON object, of one or two numbers from 0 to 10."""
    score = (read_object(answer) or {}).get("score")
    if not isinstance(score, list) or len(score) not in (1, 2):
        return None
    are_grades = all(isinstance(n, (int, float)) and not isinstance(n, bool) and 0 <= n <= 10 for n in score)
    return [float(number) for number in score] if are_grades else None


def read_met(answer: str) -> bool | None:
    """Return "criteria_met" of a JSON object; "not sure" is not met."""
    met = (read_object(answer) or {}).get("criteria_met")
    if isinstance(met, str):
        met = {"true": True, "yes": True, "false": False, "no": False, "not sure": False}.get(met.strip().lower())
    return met if isinstance(met, bool) else None


def _rubric_request(item: JudgedItem, rubric: str, shown: str) -> str:
    return _RUBRIC_REQUEST.format(question=item.prompt, shown=shown, rubric=rubric)


def _edited(items: Sequence[JudgedItem], tools: Tools) -> list[Any]:
    sources = [item.picture if item.picture is not None else Path(item.id) for item in items]
    return tools.model.edit(sources, [item.prompt for item in items], [tools.model.seed] * len(items))


def _scored(item: JudgedItem, value: float | Failure) -> Result:
    if isinstance(value, Failure):
        return unjudged(item.id, value, item.group)
    return Result(item.id, "scored", value, group=item.group)


def _mean_of_groups(means: Sequence[np.ndarray]) -> np.ndarray:
    return np.mean([mean[..., 0] for mean in means], axis=0)
