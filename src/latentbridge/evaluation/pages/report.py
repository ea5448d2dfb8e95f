"""Report page sections about the skills of a model."""

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
"""Largest number of characters shown of a reply; a poor model may not stop."""
_FADED = 0.22
"""Opacity of a picture outside an edit's mask."""


@dataclass(frozen=True)
class Answer:
    """A question with the model's reply and, if known, the right answer."""

    question: str
    reply: str
    truth: str | None = None
    right: bool | None = None


@dataclass(frozen=True)
class UnderstandExample:
    """A picture with questions and replies."""

    picture: Picture
    source: str
    """Origin of the picture, e.g. "drawn by Google"."""
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class GenerationExample:
    """A prompt and the picture generated for it."""

    prompt: str
    description: str
    """The rewritten prompt."""
    picture: Picture
    verdict: str
    right: bool | None = None


@dataclass(frozen=True)
class EditExample:
    """A picture before and after an instruction, and the exact target."""

    instruction: str
    before: Picture
    after: Picture
    target: Picture
    mask: np.ndarray
    """bool [h, w]; the edit may change pixels where it is True."""
    description: str
    verdict: str
    right: bool | None = None


@dataclass(frozen=True)
class SearchHit:
    """One search hit, a picture or words."""

    caption: str
    score: float
    picture: Picture | None = None
    right: bool | None = None


@dataclass(frozen=True)
class SearchExample:
    """A query of words, a picture or both, and its hits, best first."""

    kind: str
    """E.g. "words to picture"."""
    words: str
    hits: tuple[SearchHit, ...]
    picture: Picture | None = None


@dataclass(frozen=True)
class LoopbackChain:
    """A picture and its loopback rounds."""

    picture: Picture
    rounds: Sequence[Round]


def tally(marks: Iterable[bool | None]) -> tuple[int, int]:
    """Return the numbers of right and of graded marks; None is not graded."""
    graded = [mark for mark in marks if mark is not None]
    return sum(graded), len(graded)


def understand_section(items: Sequence[UnderstandExample]) -> Section:
    """Return pictures with questions and replies."""
    right, graded = tally(answer.right for item in items for answer in item.answers)
    cards = "".join(
        f'<article class="card beside"><figure>{picture_html(item.picture, item.source)}'
        f"<figcaption>{escape(item.source)}</figcaption></figure>"
        f'<dl class="answers">{"".join(_answer_html(answer) for answer in item.answers)}</dl></article>'
        for item in items
    )
    lead = f"The model describes pictures it has never seen and answers questions about them. {right} of {graded} replies here are right, word for word."
    return Section("understand", "Understand", lead, f'<div class="columns">{cards}</div>')


def _answer_html(answer: Answer) -> str:
    truth = f' <span class="truth">it is: {escape(answer.truth)}</span>' if answer.truth and not answer.right else ""
    return f"<dt>{escape(answer.question)}</dt><dd>{_truncate(answer.reply) or '(nothing)'}{mark_html(answer.right)}{truth}</dd>"


def draw_section(items: Sequence[GenerationExample], lead: str) -> Section:
    """Return prompts with the pictures generated for them."""
    right, graded = tally(item.right for item in items)
    cards = "".join(
        f'<article class="card">{picture_html(item.picture, item.prompt)}<p class="words">{escape(item.prompt)}</p>'
        + (f'<p class="small">drawn as: {_truncate(item.description)}</p>' if item.description != item.prompt else "")
        + f'<p class="small">{escape(item.verdict)}{mark_html(item.right)}</p></article>'
        for item in items
    )
    lead = f"{lead} {right} of {graded} judged pictures are right."
    return Section("draw", "Draw", lead, f'<div class="cards narrow">{cards}</div>')


def edit_section(items: Sequence[EditExample]) -> Section:
    """Return pictures before and after an instruction."""
    right, graded = tally(item.right for item in items)
    cards = "".join(
        f'<article class="card"><p class="words">{escape(item.instruction)}{mark_html(item.right)}</p><div class="panels">'
        + figure_html(item.before, "before")
        + figure_html(fade_outside(item.before, item.mask), "may change")
        + figure_html(item.after, "after")
        + figure_html(item.target, "exact target")
        + f'</div><p class="small">read as: {_truncate(item.description)}</p><p class="small">{escape(item.verdict)}</p></article>'
        for item in items
    )
    lead = (
        "An instruction changes what it names and leaves the rest alone. The model predicts the mask inside which it may change "
        f"the picture. {right} of {graded} judged edits are right with nothing else changed."
    )
    return Section("edit", "Edit", lead, f'<div class="cards wide">{cards}</div>')


def _truncate(words: str) -> str:
    return escape(words if len(words) <= _LONGEST_REPLY else words[:_LONGEST_REPLY] + "…")


def fade_outside(picture: Picture, mask: np.ndarray) -> Picture:
    """Return the picture with everything outside the mask [h, w] faded towards grey."""
    faded = _FADED * picture + (1 - _FADED) * 128.0
    return np.where(mask[..., None], picture, faded).astype(np.uint8)


def find_section(items: Sequence[SearchExample], lead: str) -> Section:
    """Return queries with their hits; right ones are framed."""
    body = "".join(
        f"<h3>{escape(kind)}</h3>" + "".join(_search_html(item) for item in group)
        for kind, group in groupby(items, key=lambda item: item.kind)
    )
    return Section("find", "Find", f"{lead} Right hits are framed.", body)


def _search_html(item: SearchExample) -> str:
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


def loopback_section(chains: Sequence[LoopbackChain]) -> Section:
    """Return strips of pictures and captions with their similarities."""
    rounds = max((len(chain.rounds) for chain in chains), default=0)
    strips = "".join(_chain_html(chain) for chain in chains)
    similarity = [float(np.mean([chain.rounds[r].to_origin for chain in chains])) for r in range(rounds)]
    half = half_life(similarity)
    values = ", ".join(f"{value:.2f}" for value in similarity)
    lead = (
        f"Each picture is captioned and a new picture is generated from the caption, {rounds} times in a row. "
        f"Mean likeness to the first picture (cosine of the model's latents), round by round: {values}. "
        + (f"It halves after {half:.1f} rounds." if half else f"It does not halve within {rounds} rounds.")
    )
    return Section("loopback", "Loopback", lead, strips)


def _chain_html(chain: LoopbackChain) -> str:
    cells = [figure_html(chain.picture, "the first picture")]
    for item in chain.rounds:
        facts = (
            ""
            if item.picture_kept is None
            else f" · facts kept {item.words_kept:.0%} in words, {item.picture_kept:.0%} drawn"
        )
        cells.append(
            f"<figure>{picture_html(item.picture, item.words)}{meter_html(item.to_origin)}"
            f"<figcaption>{item.to_origin:.2f} like the first, {item.to_previous:.2f} like the last{facts}"
            f'<br><span class="words">“{_truncate(item.words)}”</span></figcaption></figure>'
        )
    return f'<div class="strip">{"".join(cells)}</div>'


def scores_section(stored: Mapping[str, Any]) -> Section:
    """Return the table of a stored report, whose rows have skill, metric, value, low, high, n, aim and note."""
    body = ""
    for skill, rows in groupby(stored["rows"], key=lambda row: row["skill"]):
        body += f'<tr class="group"><th colspan="6">{escape(skill)}</th></tr>' + "".join(map(_score_html, rows))
    head = '<th>metric</th><th class="number">value</th><th>95 % interval, aim as a tick</th><th class="number">n</th><th class="number">aim</th><th>note</th>'
    origin = " · ".join(
        f"{name} {stored[name]}" for name in ("command", "seed", "date", "hardware") if stored.get(name) is not None
    )
    lead = "Exact scores on held-out data, measured once with the shipped weights; a missed aim stays in the table."
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return Section("scores", "Scores", lead, f'{table}<p class="note">{escape(origin)}</p>')


def _score_html(row: Mapping[str, Any]) -> str:
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
    """Return pairs of a command and its purpose."""
    rows = "".join(
        f"<li><code>{escape(command)}</code><span>{escape(purpose)}</span></li>" for command, purpose in commands
    )
    return Section(
        "next", "What to run next", "Every part of this page is one command.", f'<ul class="commands">{rows}</ul>'
    )


def credits_section(credits: Sequence[str]) -> Section:
    """Return the attributions of the pictures on the page."""
    rows = "".join(f"<li>{escape(credit)}</li>" for credit in sorted(set(credits)))
    lead = "The drawings on this page are other people's work, scaled to 64 pixels and placed on plain backgrounds."
    return Section("credits", "Credits", lead, f'<ul class="small">{rows}</ul>')
