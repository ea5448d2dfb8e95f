"""Random picks, and the phrases made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Return one of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def pick_other(rng: np.random.Generator, options: Iterable[T], current: T) -> T:
    """Return an option that differs from the current one."""
    return pick(rng, [option for option in options if option != current])


def join_phrases(phrases: Sequence[str]) -> str:
    """Return "a", "a and b", or "a, b and c"."""
    return " and ".join([", ".join(phrases[:-1])] * (len(phrases) > 1) + [phrases[-1]])
