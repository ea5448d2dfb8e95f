"""The base of benchmarks with a judge: the cost shown first, answers read strictly, and the judge named in every score."""

from __future__ import annotations

import json
import re
import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from latentbridge.evaluation.bench.benchmark import Benchmark, Item, Result, by_group
from latentbridge.evaluation.bench.cached_model import Failure
from latentbridge.evaluation.bench.judge import Judge
from latentbridge.evaluation.bench.tools import Tools, require
from latentbridge.evaluation.metrics import Score, Unit, average

ItemT = TypeVar("ItemT", bound=Item)


class JudgedBenchmark(Benchmark[ItemT]):
    """A benchmark whose items a judge grades; a failed judgement counts as 0, as "unparsed"."""

    skill = "generate"
    unit: Unit = "share"

    def __init__(self) -> None:
        self.judge_name = ""

    @abstractmethod
    def calls(self, item: ItemT) -> list[tuple[str, int]]:
        """Return what the judge will be asked about an item, for the estimate: texts, each with a number of pictures."""

    def prepare(self, items: Sequence[ItemT], tools: Tools) -> None:
        print(judge_of(tools).estimate([call for item in items for call in self.calls(item)]), file=sys.stderr)

    def finish(self, items: Sequence[ItemT], results: Sequence[Result], tools: Tools) -> None:
        self.judge_name = judge_of(tools).model

    def mean(self, metric: str, results: Sequence[Result], note: str = "") -> Score:
        """Return the mean value of results, of which failures count as 0, under a name that has the judge's."""
        failed = sum(result.status in ("unparsed", "missing") for result in results)
        told = f"{failed} failed and count as 0" if failed else "none failed"
        name = f"{metric} (judge {self.judge_name})"
        values = [result.value for result in results]
        return average(self.skill, name, values, self.unit, note="; ".join(part for part in (note, told) if part))

    def means(self, metric: str, results: Sequence[Result], note: str = "") -> list[Score]:
        """Return the mean over all results and those of each group."""
        groups = by_group(results)
        return [
            self.mean(metric, results, note),
            *(self.mean(f"{metric}, {g}", members) for g, members in groups.items()),
        ]


def judge_of(tools: Tools) -> Judge:
    """Return the judge; raise UserError if there is none."""
    return require(tools.judge, "judge")


def unjudged(id: str, failure: Failure, group: str = "", answer: str = "") -> Result:
    """Return the result of an item whose judgement failed."""
    return Result(id, "unparsed", 0.0, answer, "", group, failure.reason)


def read_object(answer: str) -> dict[str, object] | None:
    """Return the first JSON object in an answer, if it has one."""
    decoder = json.JSONDecoder()
    for start in (match.start() for match in re.finditer(r"\{", answer)):
        try:
            document, _ = decoder.raw_decode(answer[start:])
        except ValueError:
            continue
        return document
    return None


def read_whole_numbers(answer: str, labels: Sequence[str], least: int, most: int) -> list[int] | None:
    """Return the number after each label, or of as many lines that hold nothing else; None unless all are in range."""
    numbers: list[int] = []
    for label in labels:
        found = re.findall(rf"{re.escape(label)}\W{{0,6}}(\d+)(?![\d.])", answer, re.IGNORECASE)
        numbers += [int(found[-1])] if found else []
    if len(numbers) != len(labels):
        alone = re.findall(r"(?m)^\s*(\d+)\s*$", answer)
        numbers = [int(number) for number in alone] if len(alone) == len(labels) else []
    return numbers if numbers and all(least <= number <= most for number in numbers) else None
