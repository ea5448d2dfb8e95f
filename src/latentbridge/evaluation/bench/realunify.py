"""RealUnify (arXiv:2509.24897), generation enhances understanding: lettered questions about a picture, in two ways.

Format: GEU_direct.json and GEU_step.json with index, task_type, input_image ("./image/..."), evaluation_prompt, answer and, in
the second, edit_prompt. "direct" asks about the picture; "step" edits it first and asks about the result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentbridge.evaluation.bench.benchmark import Result, judged, missing, require_truth
from latentbridge.evaluation.bench.cached_model import Failure, Question
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.bench.questions import QuestionBenchmark, QuestionItem
from latentbridge.evaluation.bench.tools import Tools


@dataclass(frozen=True)
class _StepItem(QuestionItem):
    """A question about the picture that an instruction leads to."""

    instruction: str = ""


class RealUnify(QuestionBenchmark):
    """The "direct" or the "step" evaluation of 400 questions."""

    max_tokens = 128

    def __init__(self, way: str) -> None:
        self.way = way

    def load(self, files: DataFolder) -> list[QuestionItem]:
        rows = files.rows(files.find(f"GEU_{self.way}.json")[0])
        return [_item(files, row, self.way) for row in rows]

    def evaluate(self, items: Sequence[QuestionItem], tools: Tools) -> list[Result]:
        if self.way == "direct":
            return super().evaluate(items, tools)
        sources = [item.pictures[0] for item in items]
        texts = [item.instruction if isinstance(item, _StepItem) else "" for item in items]
        edited = tools.model.edit(sources, texts, [tools.model.seed] * len(items))
        made = [picture for picture in edited if not isinstance(picture, Failure)]
        prompts = [i.prompt for i, picture in zip(items, edited, strict=True) if not isinstance(picture, Failure)]
        questions = [Question(prompt, (picture,)) for prompt, picture in zip(prompts, made, strict=True)]
        replies = iter(tools.model.reply(questions, max_tokens=self.max_tokens))
        results: list[Result] = []
        for item, picture in zip(items, edited, strict=True):
            reply = picture if isinstance(picture, Failure) else next(replies)
            is_lost = isinstance(reply, Failure)
            results.append(
                missing(item.id, reply.reason, item.truth, item.group) if is_lost else self.score(item, reply)
            )
        return results

    def score(self, item: QuestionItem, reply: str) -> Result:
        return judged(item.id, read_first_letter(reply), item.truth, reply, item.group)


def read_first_letter(reply: str) -> str | None:
    """Return the first of A to D in a reply without its announcement, by the authors' rule but for letters within words."""
    text = re.sub(r"(?i)\b(?:the )?(?:best |correct )?(?:answer|option)(?: is)?:?", "", reply)
    alone = re.search(r"\b([A-D])\b", text)
    return alone[1] if alone else None


def _item(files: DataFolder, row: dict[str, Any], way: str) -> QuestionItem:
    id = f"{row['task_type']}/{row['index']}"
    truth = require_truth(id, row["answer"], ("A", "B", "C", "D"))
    picture = files.picture(str(Path(row["input_image"].removeprefix("./"))))
    common = (id, row["evaluation_prompt"], (picture,), truth, row["task_type"])
    return _StepItem(*common, instruction=row["edit_prompt"]) if way == "step" else QuestionItem(*common)
