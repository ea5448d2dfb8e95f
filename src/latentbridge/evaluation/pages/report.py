"""What a model did, as a page to look at: sections from plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Any

import numpy as np

from latentbridge.evaluation.loopback import Round, half_life
from latentbridge.evaluation.metrics import format_score
from latentbridge.evaluation.pages.page import (
    Section,
    figure_html,
    interval_html,
    mark_html,
    meter_html,
    picture_html,
)
from latentbridge.types import Picture

_LONGEST_REPLY = 220
"""Characters of the model's words that are shown; a model that knows little talks without end."""
_FADED = 0.22
"""How much of a picture still shows where an edit had to leave it alone."""


@dataclass(frozen=True)
class Answer:
    """A question with the model's reply; the truth where it is known."""

    question: str
    reply: str
    truth: str | None = None
    right: bool | None = None


@dataclass(frozen=True)
class UnderstandExample:
    """A picture and what was asked about it."""

    picture: Picture
    source: str
    """Where the picture comes from, e.g. "drawn by Google"."""
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class GenerationExample:
    """A prompt and the picture drawn for it."""

    prompt: str
    description: str
    """What was drawn: the rewritten prompt."""
    picture: Picture
    verdict: str
    right: bool | None = None


@dataclass(frozen=True)
class EditExample:
    """A picture before and after an instruction, beside the exact target."""

    instruction: str
    before: Picture
    after: Picture
    target: Picture
    mask: np.ndarray
    """bool [h, w]: where new content was allowed."""
    description: str
    verdict: str
    right: bool | None = None


@dataclass(frozen=True)
class SearchHit:
    """One hit as a picture or as words."""

    caption: str
    score: float
    picture: Picture | None = None
    right: bool | None = None


@dataclass(frozen=True)
class SearchExample:
    """A query, as words, picture or both, and its hits, best first."""

    kind: str
    """E.g. "words to picture"."""
    words: str
    hits: tuple[SearchHit, ...]
    picture: Picture | None = None


@dataclass(frozen=True)
class LoopbackChain:
    """A picture and its loopback."""

    picture: Picture
    rounds: Sequence[Round]


def tally(marks: Iterable[bool | None]) -> tuple[int, int]:
    """(right, judged) of marks; None is not judged."""
    judged = [mark for mark in marks if mark is not None]
    return sum(judged), len(judged)


def understand_section(items: Sequence[UnderstandExample]) -> Section:
    """Pictures with questions and replies."""
    right, judged = tally(answer.right for item in items for answer in item.answers)
    cards = "".join(
        f'<article class="card beside"><figure>{picture_html(item.picture, item.source)}'
        f"<figcaption>{escape(item.source)}</figcaption></figure>"
        f'<dl class="answers">{"".join(_show_answer(answer) for answer in item.answers)}</dl></article>'
        for item in items
    )
    lead = f"The model describes pictures it has never seen and answers questions about them. {right} of {judged} replies here are right, word for word."
    return Section("understand", "Understand", lead, f'<div class="columns">{cards}</div>')


def _show_answer(answer: Answer) -> str:
    truth = f' <span class="truth">it is: {escape(answer.truth)}</span>' if answer.truth and not answer.right else ""
    return f"<dt>{escape(answer.question)}</dt><dd>{_show_words(answer.reply) or '(nothing)'}{mark_html(answer.right)}{truth}</dd>"


def draw_section(items: Sequence[GenerationExample], lead: str) -> Section:
    """Prompts with the pictures drawn for them."""
    right, judged = tally(item.right for item in items)
    cards = "".join(
        f'<article class="card">{picture_html(item.picture, item.prompt)}<p class="words">{escape(item.prompt)}</p>'
        + (f'<p class="small">drawn as: {_show_words(item.description)}</p>' if item.description != item.prompt else "")
        + f'<p class="small">{escape(item.verdict)}{mark_html(item.right)}</p></article>'
        for item in items
    )
    lead = f"{lead} {right} of {judged} judged pictures are right."
    return Section("draw", "Draw", lead, f'<div class="cards narrow">{cards}</div>')


def edit_section(items: Sequence[EditExample]) -> Section:
    """Pictures before and after an instruction."""
    right, judged = tally(item.right for item in items)
    cards = "".join(
        f'<article class="card"><p class="words">{escape(item.instruction)}{mark_html(item.right)}</p><div class="panels">'
        + figure_html(item.before, "before")
        + figure_html(fade_outside(item.before, item.mask), "may change")
        + figure_html(item.after, "after")
        + figure_html(item.target, "exact target")
        + f'</div><p class="small">read as: {_show_words(item.description)}</p><p class="small">{escape(item.verdict)}</p></article>'
        for item in items
    )
    lead = (
        "One instruction changes what it names and leaves the rest alone. The model marks for itself where it may change "
        f"the picture. {right} of {judged} judged edits are right with nothing else changed."
    )
    return Section("edit", "Edit", lead, f'<div class="cards wide">{cards}</div>')


def _show_words(words: str) -> str:
    return escape(words if len(words) <= _LONGEST_REPLY else words[:_LONGEST_REPLY] + "…")


def fade_outside(picture: Picture, mask: np.ndarray) -> Picture:
    """The picture with everything outside the mask [h, w] faded towards grey."""
    faded = _FADED * picture + (1 - _FADED) * 128.0
    return np.where(mask[..., None], picture, faded).astype(np.uint8)


def find_section(items: Sequence[SearchExample], lead: str) -> Section:
    """Queries with their hits; right ones are framed."""
    body = "".join(
        f"<h3>{escape(kind)}</h3>" + "".join(_show_found(item) for item in group)
        for kind, group in groupby(items, key=lambda item: item.kind)
    )
    return Section("find", "Find", f"{lead} Right hits are framed.", body)


def _show_found(item: SearchExample) -> str:
    query = (
        f'<p class="words">{escape(item.words)}</p>' if item.picture is None else figure_html(item.picture, item.words)
    )
    pictures = "".join(
        figure_html(hit.picture, f"{hit.caption} · {hit.score:.2f}", right=hit.right)
        for hit in item.hits
        if hit.picture is not None
    )
    words = "".join(
        f'<div>{escape(hit.caption)}{mark_html(hit.right or None)} <span class="truth">{hit.score:.2f}</span></div>'
        for hit in item.hits
        if hit.picture is None
    )
    hits = f'<div class="strip">{pictures}</div>' if pictures else f"<div>{words}</div>"
    return f'<div class="found">{query}{hits}</div>'


def loopback_section(walks: Sequence[LoopbackChain]) -> Section:
    """Strips of pictures and words, with what drifts."""
    rounds = max((len(walk.rounds) for walk in walks), default=0)
    strips = "".join(_show_walk(walk) for walk in walks)
    likeness = [float(np.mean([walk.rounds[r].to_origin for walk in walks])) for r in range(rounds)]
    half = half_life(likeness)
    fall = ", ".join(f"{value:.2f}" for value in likeness)
    lead = (
        f"Each picture is put into words, the words are drawn, the drawing is put into words again, {rounds} times over. "
        f"Mean likeness to the first picture (cosine of what the model sees in both), round by round: {fall}. "
        + (f"It halves after {half:.1f} rounds." if half else f"It does not halve within {rounds} rounds.")
    )
    return Section("loopback", "Loopback", lead, strips)


def _show_walk(walk: LoopbackChain) -> str:
    cells = [figure_html(walk.picture, "the first picture")]
    for each in walk.rounds:
        facts = (
            ""
            if each.picture_kept is None
            else f" · facts kept {each.words_kept:.0%} told, {each.picture_kept:.0%} drawn"
        )
        cells.append(
            f"<figure>{picture_html(each.picture, each.words)}{meter_html(each.to_origin)}"
            f"<figcaption>{each.to_origin:.2f} like the first, {each.to_previous:.2f} like the last{facts}"
            f'<br><span class="words">“{_show_words(each.words)}”</span></figcaption></figure>'
        )
    return f'<div class="strip">{"".join(cells)}</div>'


def scores_section(stored: Mapping[str, Any]) -> Section:
    """The table of stored scores: rows of skill, metric, value, low, high, n, aim and note; how they were made below."""
    body = ""
    for skill, rows in groupby(stored["rows"], key=lambda row: row["skill"]):
        body += f'<tr class="group"><th colspan="6">{escape(skill)}</th></tr>' + "".join(map(_show_score, rows))
    head = '<th>metric</th><th class="number">value</th><th>95 % interval, aim as a tick</th><th class="number">n</th><th class="number">aim</th><th>note</th>'
    origin = " · ".join(
        f"{name} {stored[name]}" for name in ("command", "seed", "date", "hardware") if stored.get(name) is not None
    )
    lead = "Exact scores on held-out data, measured once with the shipped weights; a missed aim stays in the table."
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return Section("scores", "Scores", lead, f'{table}<p class="note">{escape(origin)}</p>')


def _show_score(row: Mapping[str, Any]) -> str:
    value, low, high, aim = row["value"], row.get("low"), row.get("high"), row.get("aim")
    unit = row.get("unit", "share")
    reached = None if aim is None else value >= aim
    bar = interval_html(value, low, high, aim) if unit == "share" and low is not None and high is not None else ""
    return (
        f'<tr><td>{escape(row["metric"])}</td><td class="number">{format_score(value, unit)}{mark_html(reached)}</td><td>{bar}</td>'
        f'<td class="number">{escape(str(row.get("n", "")))}</td><td class="number">{"" if aim is None else format_score(aim, unit)}</td>'
        f'<td class="small">{escape(row.get("note") or "")}</td></tr>'
    )


def commands_section(commands: Sequence[tuple[str, str]]) -> Section:
    """(command, what it does) pairs."""
    rows = "".join(f"<li><code>{escape(command)}</code><span>{escape(what)}</span></li>" for command, what in commands)
    return Section(
        "next", "What to run next", "Every part of this page is one command.", f'<ul class="commands">{rows}</ul>'
    )


def credits_section(credits: Sequence[str]) -> Section:
    """Who drew the pictures on the page, and under which licence."""
    rows = "".join(f"<li>{escape(credit)}</li>" for credit in sorted(set(credits)))
    lead = "The drawings on this page are other people's work, scaled to 64 pixels and placed on plain grounds."
    return Section("credits", "Credits", lead, f'<ul class="small">{rows}</ul>')
