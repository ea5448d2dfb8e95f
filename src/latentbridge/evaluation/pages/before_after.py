"""The same walks by a model before and after post-training, as a section of a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import cast

from latentbridge.data.pairs import Pair
from latentbridge.evaluation.loopback import Loopback, pair_facts_kept
from latentbridge.evaluation.pages.page import Section, figure_html
from latentbridge.types import Picture


def mean_facts_kept(measured: Loopback, pairs: Sequence[Pair]) -> float:
    """Mean share of facts that the last words of walks keep; pairs without facts keep nothing."""
    kept = [pair_facts_kept(words, pair) or 0.0 for words, pair in zip(measured.hops[-1], pairs, strict=True)]
    return sum(kept) / len(kept)


def before_after_section(pairs: Sequence[Pair], before: Loopback, after: Loopback, lead: str) -> Section:
    """Two strips for each pair: what a text-first walk of an even number of hops draws and says, before and after."""
    strips = "".join(
        f"<h3>“{escape(pair.text)}”</h3>{_show_walk('before', i, before, pair)}{_show_walk('after', i, after, pair)}"
        for i, pair in enumerate(pairs)
    )
    return Section("post-training", "Loopback before and after post-training", lead, strips)


def _show_walk(when: str, index: int, measured: Loopback, pair: Pair) -> str:
    drawn, said = ([items[index] for items in measured.hops[start::2]] for start in range(2))
    cells = "".join(
        figure_html(cast(Picture, picture), f"{when}: said “{words}”", str(words), right=_right(words, pair))
        for picture, words in zip(drawn, said, strict=True)
    )
    return f'<div class="strip">{cells}</div>'


def _right(words: Picture | str, pair: Pair) -> bool:
    return pair_facts_kept(words, pair) == 1
