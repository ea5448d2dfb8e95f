"""Pictures graded by questions to a VQA model: DPG-Bench and GenEval 2.

Formats. DPG-Bench (arXiv:2403.05135): dpg_bench.csv with a row per question (item_id, text, proposition_id, dependency,
category_broad, category_detailed, tuple, question_natural_language). GenEval 2 (arXiv:2512.16853): geneval2_data.jsonl with
prompt, atom_count, vqa_list [[question, answer]] and skills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentbridge.evaluation.bench.answers import read_yes_no
from latentbridge.evaluation.bench.benchmark import Benchmark, Result, composite, missing
from latentbridge.evaluation.bench.cached_model import Failure, Question
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.tools import Tools, require
from latentbridge.evaluation.metrics import Score, average
from latentbridge.types import Picture

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_PICTURES = 4
_SKILL = "generate"


@dataclass(frozen=True)
class _Proposition:
    """A yes-or-no question of DPG-Bench; it counts only if those it depends on are answered yes."""

    number: int
    question: str
    parents: tuple[int, ...]
    category: str


@dataclass(frozen=True)
class _DensePrompt:
    id: str
    prompt: str
    propositions: tuple[_Proposition, ...]


class DpgBench(Benchmark[_DensePrompt]):
    """1,065 prompts, four whole pictures each (no 2 x 2 sheet that would have to be cut), drawn with seeds s, s + 1, ..."""

    def load(self, files: DataFolder) -> list[_DensePrompt]:
        prompts: dict[str, tuple[str, list[_Proposition]]] = {}
        for row in files.rows(files.find("dpg_bench.csv")[0]):
            _, propositions = prompts.setdefault(row["item_id"], (row["text"], []))
            parents = tuple(number for part in row["dependency"].split(",") if (number := int(part)) != 0)
            category = row["tuple"].split("(")[0].split("-")[0].strip()
            question = row["question_natural_language"]
            propositions.append(_Proposition(int(row["proposition_id"]), question, parents, category))
        return [_DensePrompt(id, text, tuple(rows)) for id, (text, rows) in prompts.items()]

    def prepare(self, items: Sequence[_DensePrompt], tools: Tools) -> None:
        require(tools.vqa, "vqa")

    def evaluate(self, items: Sequence[_DensePrompt], tools: Tools) -> list[Result]:
        seeds = [tools.model.seed + number for number in range(_PICTURES)]
        prompts = [item.prompt for item in items for _ in seeds]
        drawn = tools.model.draw(prompts, seeds * len(items))
        return [
            self._grade(item, drawn[_PICTURES * place : _PICTURES * (place + 1)], tools)
            for place, item in enumerate(items)
        ]

    def _grade(self, item: _DensePrompt, pictures: Sequence[Picture | Failure], tools: Tools) -> Result:
        """Return the mean score of the pictures; one that is missing counts as 0."""
        scores: list[float] = []
        asked = {
            p.category: float(_PICTURES * sum(q.category == p.category for q in item.propositions))
            for p in item.propositions
        }
        measures = {f"{category} asked": count for category, count in asked.items()}
        measures |= {f"{category} right": 0.0 for category in asked}
        unparsed, lost = 0, ""
        for picture in pictures:
            if isinstance(picture, Failure):
                scores.append(0.0)
                lost = picture.reason
                continue
            questions = [Question(proposition.question, (picture,)) for proposition in item.propositions]
            replies = require(tools.vqa, "vqa").reply(questions, max_tokens=16)
            answers = [read_yes_no(reply) if isinstance(reply, str) else None for reply in replies]
            unparsed += sum(answer is None for answer in answers)
            holding = dependent_answers(item.propositions, [answer == "yes" for answer in answers])
            scores.append(sum(holding) / len(holding))
            for proposition, holds in zip(item.propositions, holding, strict=True):
                measures[f"{proposition.category} right"] += holds
        measures |= {"unparsed answers": float(unparsed)}
        if lost and not any(isinstance(picture, np.ndarray) for picture in pictures):
            return missing(item.id, lost, measures=measures)
        mean = sum(scores) / len(scores)
        return Result(
            item.id, "scored", mean, str([round(score, 4) for score in scores]), reason=lost, measures=measures
        )

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        note = "VQA model in mPLUG's place; not comparable with scores by mPLUG"
        scores = [average(_SKILL, "DPG-Bench", [result.value for result in results], note=note)]
        names = [name for result in results for name in result.measures if name.endswith(" asked")]
        for name in dict.fromkeys(names):
            category = name.removesuffix(" asked")
            rows = [[r.measures.get(f"{category} right", 0.0), r.measures.get(name, 0.0)] for r in results]
            scores.append(
                composite(_SKILL, f"DPG-Bench {category}", [rows], _ratio, note="all pictures, with dependencies")
            )
        return scores


def dependent_answers(propositions: Sequence[_Proposition], yes: Sequence[bool]) -> list[bool]:
    """Return whether each proposition and, in the order of the file, all its parents hold."""
    holding: dict[int, bool] = {p.number: answer for p, answer in zip(propositions, yes, strict=True)}
    for proposition in propositions:
        if not all(holding.get(parent, True) for parent in proposition.parents):
            holding[proposition.number] = False
    return [holding[proposition.number] for proposition in propositions]


@dataclass(frozen=True)
class _AtomPrompt:
    id: str
    row: dict[str, Any]


class GenEval2(Benchmark[_AtomPrompt]):
    """800 prompts; Soft-TIFA: the probability of the right answer to each atom's question.

    The authors sum the first token's probability over spellings of the answer; here any model can answer, and probabilities
    are those of the whole answers, among yes and no or the numbers one to ten.
    """

    def load(self, files: DataFolder) -> list[_AtomPrompt]:
        rows = files.rows(files.find("geneval2_data.jsonl")[0])
        return [_AtomPrompt(f"{place:04d}", row) for place, row in enumerate(rows)]

    def prepare(self, items: Sequence[_AtomPrompt], tools: Tools) -> None:
        require(tools.vqa, "vqa")

    def evaluate(self, items: Sequence[_AtomPrompt], tools: Tools) -> list[Result]:
        drawn = tools.model.draw([item.row["prompt"] for item in items], [tools.model.seed] * len(items))
        return [
            missing(item.id, picture.reason, group=str(item.row["atom_count"]), measures=_asked(item))
            if isinstance(picture, Failure)
            else self._grade(item, picture, tools)
            for item, picture in zip(items, drawn, strict=True)
        ]

    def _grade(self, item: _AtomPrompt, picture: Picture, tools: Tools) -> Result:
        pairs = item.row["vqa_list"]
        questions = [Question(f"{question} Answer in one word.", (picture,)) for question, _ in pairs]
        candidates = [NUMBERS if question.startswith("How many") else ("Yes", "No") for question, _ in pairs]
        shares = require(tools.vqa, "vqa").probabilities(questions, candidates)
        softs = [
            0.0 if isinstance(row, Failure) or answer not in known else row[known.index(answer)]
            for row, known, (_, answer) in zip(shares, candidates, pairs, strict=True)
        ]
        measures = _asked(item) | {"GM": geometric_mean(softs)}
        for skill, soft in zip(item.row["skills"], softs, strict=True):
            measures[f"{skill} right"] += soft
        mean = sum(softs) / len(softs)
        group = str(item.row["atom_count"])
        return Result(item.id, "scored", mean, truth=item.row["prompt"], group=group, measures=measures)

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        note = "probabilities of whole answers among those possible; not comparable with Qwen3-VL's first token"
        geometric = [result.measures.get("GM", 0.0) for result in results]
        scores = [
            average(_SKILL, "Soft-TIFA GM (prompts)", geometric, note=note),
            average(_SKILL, "Soft-TIFA AM (atoms)", [result.value for result in results], note=note),
        ]
        names = [name for result in results for name in result.measures if name.endswith(" asked")]
        for name in dict.fromkeys(names):
            skill = name.removesuffix(" asked")
            rows = [[r.measures.get(f"{skill} right", 0.0), r.measures.get(name, 0.0)] for r in results]
            scores.append(composite(_SKILL, f"Soft-TIFA AM, {skill}", [rows], _ratio))
        return scores


def _asked(item: _AtomPrompt) -> dict[str, float]:
    """Return the number of questions per skill, and no right answers yet."""
    skills: list[str] = item.row["skills"]
    return {f"{skill} asked": float(skills.count(skill)) for skill in skills} | {f"{s} right": 0.0 for s in skills}


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean; 0 if any value is."""
    return float(np.exp(np.mean(np.log(values)))) if min(values) > 0 else 0.0


def _ratio(means: Sequence[np.ndarray]) -> np.ndarray:
    return means[0][..., 0] / means[0][..., 1]
