"""Long chains of reasoning: their form, what they must reach on the way, and how a reply is graded by both.

A chain has R1-VL's form (arXiv 2503.12937; spec OmniBridge 3.2): the description, the rationale, numbered steps, and the
final answer last, each under its header. `data/shapes/problems.py` writes exact ones about scenes; a manifest may bring its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from latentbridge.data.shapes.language import final_answer

# --- the form ------------------------------------------------------------------------------------

_DESCRIPTION, _RATIONALE, _OPENING, _ANSWER = (
    "Image Description:",
    "Rationales:",
    "Let's think step by step.",
    "The final answer is:",
)
_HEADER = re.compile(
    rf"^### ({'|'.join(map(re.escape, (_DESCRIPTION, _RATIONALE, _OPENING, _ANSWER)))}|Step \d+:)", re.MULTILINE
)


_WORD = re.compile(r"[^\W_]+|[-+=<>/*]")


@dataclass(frozen=True)
class Chain:
    """A worked answer by its sections."""

    description: str
    rationale: str
    steps: tuple[str, ...]
    answer: str


def write_chain(chain: Chain) -> str:
    """The chain as text; the inverse of `read_chain`."""
    steps = (f"### Step {i}: {step}" for i, step in enumerate(chain.steps, start=1))
    opening = (f"### {_DESCRIPTION} {chain.description}", f"### {_RATIONALE} {chain.rationale}", f"### {_OPENING}")
    return "\n".join([*opening, *steps, f"### {_ANSWER} {chain.answer}"])


def read_chain(text: str) -> Chain | None:
    """The chain a text is, or None where its form is not valid.

    Valid are all four sections, once each and in order, none of them empty; steps numbered 1 to n that all say something
    and not twice the same; an answer of one line, after which nothing comes.
    """
    before, *rest = _HEADER.split(text.strip())
    headers, bodies = rest[::2], [body.strip() for body in rest[1::2]]
    numbers = range(1, len(headers) - 3)
    if before or headers != [_DESCRIPTION, _RATIONALE, _OPENING, *(f"Step {i}:" for i in numbers), _ANSWER]:
        return None
    description, rationale, opening, *steps, answer = bodies
    told = (description, rationale, *steps, answer)
    if opening or not steps or not all(told) or len(set(steps)) < len(steps) or "\n" in answer:
        return None
    return Chain(description, rationale, tuple(steps), answer)


def _steps_of(text: str) -> list[str]:
    """What stands in the numbered steps of any text, valid or not."""
    _, *rest = _HEADER.split(text)
    return [body for header, body in zip(rest[::2], rest[1::2], strict=True) if header.startswith("Step")]


# --- what a chain must reach ---------------------------------------------------------------------


@dataclass(frozen=True)
class KeyStep:
    """Something to be found on the way to an answer, as keywords."""

    phrases: tuple[str, ...]
    """Phrases any of which says it: synonyms, digits and number words."""
    contradictions: tuple[str, ...] = ()
    """Phrases that say something else in its place."""


@dataclass(frozen=True)
class Problem:
    """A question of several steps about a picture, and all that a reply is graded by."""

    question: str
    answer: str
    key_steps: tuple[KeyStep, ...] = ()
    chain: str = ""
    """A right reply in full, where one is known."""
    kind: str = ""


def is_correct(reply: str, problem: Problem) -> bool:
    """Whether the reply ends with the right answer, letter for letter but for case and a full stop."""
    return final_answer(reply) == final_answer(problem.answer)


def key_step_recall(reply: str, problem: Problem) -> float:
    """The share of key steps that the numbered steps of a reply reach, in any order; 0 where no key steps are known.

    Soft matching as in R1-VL's StepRAR: one form of a key step is enough, whole words only. What differs, so that
    guessing does not pay: the first step that speaks of a key step settles it, and for nothing where it also says
    something else in its place; a step settles several but reaches one at most; and a reply of more steps than there are
    key steps has its share of those. R1-VL counts keywords anywhere in the text.
    """
    steps = [_normal(step) for step in _steps_of(reply)]
    unsettled, reached = list(problem.key_steps), 0
    for step in steps:
        settled = [key for key in unsettled if _says(step, key.phrases + key.contradictions)]
        unsettled = [key for key in unsettled if key not in settled]
        reached += any(_says(step, key.phrases) and not _says(step, key.contradictions) for key in settled)
    return reached / max(len(problem.key_steps), len(steps)) if problem.key_steps else 0.0


def _says(step: str, phrases: Sequence[str]) -> bool:
    return any(_normal(phrase) in step for phrase in phrases)


@lru_cache(maxsize=4096)
def _normal(text: str) -> str:
    """Lower case, words and signs parted by one space, with a space at both ends, so that whole words match."""
    return f" {' '.join(_WORD.findall(text.lower()))} "
