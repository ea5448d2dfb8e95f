"""Reasoning chains: their format, their key steps, and grades of replies by both.

A chain has R1-VL's format (arXiv 2503.12937; spec OmniBridge 3.2): description, rationale, numbered steps and the final
answer, each under its header. `data/shapes/problems.py` writes chains about scenes; a manifest may have its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from latentbridge.data.shapes.language import final_answer

_SECTIONS = ("Image Description:", "Rationales:", "Let's think step by step.", "The final answer is:")
_HEADER = re.compile(rf"^### ({'|'.join(map(re.escape, _SECTIONS))}|Step \d+:)", re.MULTILINE)
_WORD = re.compile(r"[^\W_]+|[-+=<>/*]")


@dataclass(frozen=True)
class Chain:
    """The sections of a reasoning chain."""

    description: str
    rationale: str
    steps: tuple[str, ...]
    answer: str


def write_chain(chain: Chain) -> str:
    """Return the chain as text; the inverse of `read_chain`."""
    steps = (f"Step {i}: {step}" for i, step in enumerate(chain.steps, start=1))
    description, rationale, opening, answer = _SECTIONS
    start = (f"{description} {chain.description}", f"{rationale} {chain.rationale}", opening)
    return "\n".join(f"### {section}" for section in (*start, *steps, f"{answer} {chain.answer}"))


def read_chain(text: str) -> Chain | None:
    """Return the chain in a text, or None if its format is not valid.

    Valid is a text of the four sections in order, none empty, with different steps numbered 1 to n and an answer of one
    line.
    """
    before, *rest = _HEADER.split(text.strip())
    headers, bodies = rest[::2], [body.strip() for body in rest[1::2]]
    step_headers = (f"Step {i}:" for i in range(1, len(headers) - 3))
    if before or headers != [*_SECTIONS[:3], *step_headers, _SECTIONS[3]]:
        return None
    description, rationale, opening, *steps, answer = bodies
    complete = all((description, rationale, *steps, answer))
    if opening or not steps or not complete or len(set(steps)) < len(steps) or "\n" in answer:
        return None
    return Chain(description, rationale, tuple(steps), answer)


@dataclass(frozen=True)
class KeyStep:
    """An intermediate result as keywords."""

    phrases: tuple[str, ...]
    """Alternative phrasings: synonyms, digits, number words."""
    contradictions: tuple[str, ...] = ()
    """Phrases of other results."""


@dataclass(frozen=True)
class Problem:
    """A question about a picture that takes several steps, and what a reply is graded by."""

    question: str
    answer: str
    key_steps: tuple[KeyStep, ...] = ()
    chain: str = ""
    """A full right reply, or empty if unknown."""
    kind: str = ""


def is_correct(reply: str, problem: Problem) -> bool:
    """Return whether the reply ends with the answer, up to case and a full stop."""
    return final_answer(reply) == final_answer(problem.answer)


def key_step_recall(reply: str, problem: Problem) -> float:
    """Return the share of key steps in a reply's numbered steps, in any order; 0 if the problem has none.

    Soft matching as in R1-VL's StepRAR: whole words, any phrase of a key step. R1-VL counts keywords anywhere; here, so
    that guessing does not pay, the first step that mentions a key step or a contradiction decides it, a contradiction
    loses it, a step reaches one key step at most, and steps beyond the number of key steps lower the share.
    """
    _, *rest = _HEADER.split(reply)
    sections = zip(rest[::2], rest[1::2], strict=True)
    steps = [_normalize(body) for header, body in sections if header.startswith("Step")]
    undecided, reached = list(problem.key_steps), 0
    for step in steps:
        decided = [key for key in undecided if _contains(step, key.phrases + key.contradictions)]
        undecided = [key for key in undecided if key not in decided]
        reached += any(_contains(step, key.phrases) and not _contains(step, key.contradictions) for key in decided)
    return reached / max(len(problem.key_steps), len(steps)) if problem.key_steps else 0.0


def _contains(step: str, phrases: Sequence[str]) -> bool:
    return any(_normalize(phrase) in step for phrase in phrases)


@lru_cache(maxsize=4096)
def _normalize(text: str) -> str:
    """Return lower-case words and signs with a space around each, so that substrings match whole words."""
    return f" {' '.join(_WORD.findall(text.lower()))} "
