"""Benchmarks of questions about pictures with one right answer each: one reply per item, scored by rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from latentbridge.evaluation.bench.answers import read_letter
from latentbridge.evaluation.bench.benchmark import Benchmark, Result, by_group, judged, missing
from latentbridge.evaluation.bench.cached_model import Failure, Question
from latentbridge.evaluation.bench.pictures import PictureSource
from latentbridge.evaluation.bench.tools import Tools
from latentbridge.evaluation.metrics import Score, share

LETTER_REQUEST = "Answer with the option's letter from the given choices directly."
WORD_REQUEST = "Answer the question using a single word or phrase."
SKILL = "understand"


@dataclass(frozen=True)
class QuestionItem:
    """A question about pictures."""

    id: str
    prompt: str
    pictures: tuple[PictureSource, ...]
    truth: str
    """The letter of the right option, or the answer itself."""
    group: str = ""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """Texts of the options by letter; empty for an open question."""


class QuestionBenchmark(Benchmark[QuestionItem]):
    """A benchmark of questions; by default with lettered options, a score over all and one per group."""

    max_tokens = 32
    """Most tokens of a reply."""

    def evaluate(self, items: Sequence[QuestionItem], tools: Tools) -> list[Result]:
        questions = [Question(item.prompt, item.pictures) for item in items]
        replies = tools.model.reply(questions, max_tokens=self.max_tokens)
        return [
            missing(item.id, reply.reason, item.truth, item.group)
            if isinstance(reply, Failure)
            else self.score(item, reply)
            for item, reply in zip(items, replies, strict=True)
        ]

    def score(self, item: QuestionItem, reply: str) -> Result:
        """Return the result of a reply."""
        return judged(item.id, read_letter(reply, item.options), item.truth, reply, item.group)

    def aggregate(self, results: Sequence[Result]) -> list[Score]:
        groups = by_group(results)
        scores = [accuracy("accuracy", results)]
        if len(groups) > 1:
            scores += [accuracy(f"accuracy, {group}", members) for group, members in groups.items()]
        return scores


def accuracy(metric: str, results: Sequence[Result], note: str = "") -> Score:
    """Return the share of right items; wrong, unparsed and missing ones count as 0."""
    return share(SKILL, metric, [result.status == "right" for result in results], note=note)
