"""MME (arXiv:2306.13394): two yes-or-no questions per picture in 14 tasks.

Format: the release's folder per task with a .txt beside or below each picture ("question<tab>answer", two lines), or the
evaluation tool's TASK.txt ("picture<tab>question<tab>answer"). Scores as in the tool: per task accuracy plus the share of
pictures with both answers right, each times 100.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.answers import read_yes_no
from latentbridge.evaluation.bench.benchmark import Result, by_group, complete_groups, composite, judged
from latentbridge.evaluation.bench.data_folder import PICTURE_SUFFIXES, DataFolder
from latentbridge.evaluation.bench.questions import SKILL, WORD_REQUEST, QuestionBenchmark, QuestionItem
from latentbridge.evaluation.metrics import Score, average

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_OWN_REQUEST = "Please answer yes or no."


class Mme(QuestionBenchmark):
    """Fourteen tasks of pairs of questions; the id of an item is task/picture/number."""

    max_tokens = 16

    def load(self, files: DataFolder) -> list[QuestionItem]:
        items: list[QuestionItem] = []
        for task in (*PERCEPTION, *COGNITION):
            lists = sorted(path for path in files.path.rglob(f"{task}.txt") if path.is_file())
            items += _from_list(files, task, lists[0]) if lists else _from_folder(files, task)
        if not items:
            raise UserError(
                f"{files.path} has none of MME's tasks; give the folder that holds {PERCEPTION[0]} and others."
            )
        pairs: dict[str, int] = {}
        for item in items:
            pairs[_pair(item.id)] = pairs.get(_pair(item.id), 0) + 1
        for pair, count in pairs.items():
            if count != 2:
                raise UserError(f"{pair} has {count} question(s), not two; download the benchmark again.")
        return items

    def first(self, items: Sequence[QuestionItem], limit: int) -> list[QuestionItem]:
        return complete_groups(items, [_pair(item.id) for item in items], limit)

    def score(self, item: QuestionItem, reply: str) -> Result:
        return judged(item.id, read_yes_no(reply), item.truth, reply, item.group)

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        tasks = {task: _pair_scores(members) for task, members in by_group(results).items()}
        scores: list[Score] = []
        for name, known in (("perception", PERCEPTION), ("cognition", COGNITION)):
            present = [tasks[task] for task in known if task in tasks]
            if present:
                note = f"of {200 * len(present):,}; {len(present)} of {len(known)} tasks"
                scores.append(composite(SKILL, f"MME {name}", present, _sum_of_tasks, "points", note))
        for task, pairs in tasks.items():
            scores.append(average(SKILL, f"acc, {task}", pairs[:, 0] / 100))
            scores.append(average(SKILL, f"acc+, {task}", pairs[:, 1] / 100))
        return scores


def _pair_scores(results: Sequence[Result]) -> np.ndarray:
    """Return for each picture 100 times the share of right answers, and 100 if both are right: [pictures 2]."""
    pairs: dict[str, list[float]] = {}
    for result in results:
        pairs.setdefault(_pair(result.id), []).append(result.value)
    return np.array([[100 * sum(pair) / 2, 100 * float(sum(pair) == 2)] for pair in pairs.values()])


def _sum_of_tasks(means: Sequence[np.ndarray]) -> np.ndarray:
    return np.sum([mean.sum(axis=-1) for mean in means], axis=0)


def _pair(id: str) -> str:
    return id.rpartition("/")[0]


def _from_list(files: DataFolder, task: str, path: Path) -> list[QuestionItem]:
    lines = [line for line in files.text(path).splitlines() if line.strip()]
    numbers: dict[str, int] = {}
    items: list[QuestionItem] = []
    for number, line in enumerate(lines, start=1):
        fields = line.rstrip("\n").split("\t")
        if len(fields) < 3:
            raise UserError(f"Line {number} of {path} is not picture, question and answer; download it again.")
        name = fields[0]
        numbers[name] = numbers.get(name, 0) + 1
        folders = (path.parent / task, path.parent / task / "images", path.parent)
        picture = next((folder / name for folder in folders if (folder / name).is_file()), folders[0] / name)
        items.append(_item(task, Path(name).stem, numbers[name], picture, fields[1], fields[2]))
    return items


def _from_folder(files: DataFolder, task: str) -> list[QuestionItem]:
    folders = [path for path in sorted(files.path.rglob(task)) if path.is_dir()]
    if not folders:
        return []
    items: list[QuestionItem] = []
    for path in sorted(folders[0].rglob("*.txt")):
        candidates = [
            folder / f"{path.stem}{end}" for folder in (path.parent, folders[0] / "images") for end in PICTURE_SUFFIXES
        ]
        picture = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
        lines = [line for line in files.text(path).splitlines() if line.strip()]
        for number, line in enumerate(lines, start=1):
            question, _, answer = line.rpartition("\t")
            items.append(_item(task, path.stem, number, picture, question, answer))
    return items


def _item(task: str, name: str, number: int, picture: Path, question: str, answer: str) -> QuestionItem:
    truth = answer.strip().lower().strip(".")
    id = f"{task}/{name}/{number}"
    if truth not in ("yes", "no"):
        raise UserError(f"{id} has the truth {answer!r}, not yes or no; download the benchmark again.")
    text = question.replace(_OWN_REQUEST, "").strip()
    return QuestionItem(id, f"{text}\n{WORD_REQUEST}", (picture,), truth, task)
