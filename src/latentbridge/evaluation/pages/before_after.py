"""Page section that compares loopback before and after post-training."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import fmean
from typing import cast

from latentbridge.data.pairs import Pair
from latentbridge.evaluation.loopback import Loopback, pair_facts_kept
from latentbridge.evaluation.pages.page import Section, figure_html
from latentbridge.types import Picture


def mean_facts_kept(measured: Loopback, pairs: Sequence[Pair]) -> float:
    """Return the mean share of facts in the last words of the chains; pairs without facts count as 0."""
    return fmean(pair_facts_kept(words, pair) or 0.0 for words, pair in zip(measured.hops[-1], pairs, strict=True))


def before_after_section(pairs: Sequence[Pair], before: Loopback, after: Loopback, lead: str) -> Section:
    """Return two strips for each pair, before and after: pictures and captions of a text-first chain of an even number of hops."""
    strips = "".join(
        f"<h3>“{escape(pair.text)}”</h3>{_chain_html('before', i, before, pair)}{_chain_html('after', i, after, pair)}"
        for i, pair in enumerate(pairs)
    )
    return Section("post-training", "Loopback before and after post-training", lead, strips)


def _chain_html(when: str, index: int, measured: Loopback, pair: Pair) -> str:
    pictures, captions = ([items[index] for items in measured.hops[start::2]] for start in range(2))
    cells = "".join(
        figure_html(
            cast(Picture, picture), f"{when}: said “{words}”", str(words), right=pair_facts_kept(words, pair) == 1
        )
        for picture, words in zip(pictures, captions, strict=True)
    )
    return f'<div class="strip">{cells}</div>'
