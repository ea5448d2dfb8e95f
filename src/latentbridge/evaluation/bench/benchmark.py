"""The parts of a benchmark: items read from its files, a result per item, and scores over the results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, get_args

import numpy as np

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.data_folder import DataFolder
from latentbridge.evaluation.metrics import Score, Unit
from latentbridge.evaluation.statistics import Columns, resampled_interval

if TYPE_CHECKING:
    from latentbridge.evaluation.bench.tools import Tools

Status = Literal["right", "wrong", "scored", "unparsed", "missing"]
"""Outcome of an item: "scored" for a value that is neither right nor wrong, "unparsed" for a reply without an answer, and
"missing" for an item without a reply or picture. The last two count as 0."""
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class Result:
    """The outcome of one item, and one line of `results.jsonl`."""

    id: str
    status: Status
    value: float = 0.0
    """1 for right; 0 for wrong, unparsed and missing; the number itself for scored."""
    answer: str = ""
    """The answer that was parsed from the reply, or the reply where nothing could be parsed."""
    truth: str = ""
    group: str = ""
    """Category, task or tag of the item."""
    reason: str = ""
    """Why an item is missing or unparsed."""
    measures: dict[str, float] = field(default_factory=dict[str, float])
    """Further numbers of the item, such as ranks or scores of its questions."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Item(Protocol):
    """Anything with an id that no other item of the benchmark has."""

    @property
    def id(self) -> str: ...


ItemT = TypeVar("ItemT", bound=Item)


class Benchmark(ABC, Generic[ItemT]):
    """A benchmark: a loader, a scorer and an aggregate."""

    @abstractmethod
    def load(self, files: DataFolder) -> list[ItemT]:
        """Return the items of a folder in the published format; raise UserError for a file or a truth that cannot be read."""

    def first(self, items: Sequence[ItemT], limit: int) -> list[ItemT]:
        """Return the first `limit` items; benchmarks that score items in groups complete the last group."""
        return list(items[:limit])

    def prepare(self, items: Sequence[ItemT], tools: Tools) -> None:
        """Compute what all items share, such as the embeddings of a gallery."""

    @abstractmethod
    def evaluate(self, items: Sequence[ItemT], tools: Tools) -> list[Result]:
        """Return the result of each item of a batch, in order."""

    def finish(self, items: Sequence[ItemT], results: Sequence[Result], tools: Tools) -> None:
        """Measure what no item has by itself, such as a distance of distributions; `aggregate` follows."""

    @abstractmethod
    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        """Return the scores over the results of all items, in the order of `load`."""


def judged(id: str, answer: str | None, truth: str, reply: str, group: str = "") -> Result:
    """Return the result of an answer that is right if it equals the truth; None is an answer that could not be read."""
    if answer is None:
        return Result(id, "unparsed", 0.0, reply, truth, group, "no answer could be read from the reply")
    right = answer == truth
    return Result(id, "right" if right else "wrong", float(right), answer, truth, group)


def missing(id: str, reason: str, truth: str = "", group: str = "", measures: dict[str, float] | None = None) -> Result:
    """Return the result of an item without a reply or picture; `measures` keep what it would have counted for."""
    return Result(id, "missing", 0.0, "", truth, group, reason, measures or {})


def complete_groups(items: Sequence[ItemT], keys: Sequence[str], limit: int) -> list[ItemT]:
    """Return the first `limit` items and those that share the key of one of them."""
    chosen = set(keys[:limit])
    return [item for item, key in zip(items, keys, strict=True) if key in chosen]


def by_group(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the results of each group, in the order of first appearance."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.group, []).append(result)
    return groups


def composite(
    skill: str,
    metric: str,
    groups: Sequence[Any],
    statistic: Callable[[list[np.ndarray]], np.ndarray],
    unit: Unit = "share",
    note: str = "",
) -> Score:
    """Return a statistic of the column means of groups of items ([n k] or [n] each), with its bootstrap interval.

    `statistic` takes one array [..., k] of means per group and returns [...]; it counts as 0 where it is not defined.
    """
    columns: list[Columns] = [np.asarray(group, dtype=float).reshape(len(group), -1) for group in groups]
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(np.nan_to_num(statistic([group.mean(axis=0) for group in columns])))
    low, high = resampled_interval(columns, statistic)
    count = sum(len(group) for group in columns)
    return Score(skill, metric, value, low, high, count, None, note, unit)


def require_truth(id: str, truth: Any, known: Sequence[str]) -> str:
    """Return a truth that is among `known`; raise UserError for another, which no answer could match."""
    if str(truth) not in known:
        shown = ", ".join(known)
        raise UserError(f"The item {id} has the truth {truth!r}, not one of {shown}; take a split with answers.")
    return str(truth)
