"""Ranges of seed, sampling steps and guidance, for the command line and the library alike."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any

from latentbridge.errors import UserError

MAX_STEPS = 1_000
MAX_GUIDANCE = 50.0
MAX_SEED = 2**63 - 1


def check_sampling(seed: Any, steps: Any = None, guidance: Any = None, prefix: str = "") -> None:
    """Raise UserError for a seed, a number of steps or a guidance out of range; `prefix` is "--" on the command line."""
    if not _is_whole(seed, 0, MAX_SEED):
        raise UserError(f"{prefix}seed {seed!r} is out of range; give a whole number from 0 to 2^63 - 1.")
    if steps is not None and not _is_whole(steps, 1, MAX_STEPS):
        raise UserError(
            f"{prefix}steps {steps!r} is out of range; give a whole number from 1 to {MAX_STEPS}, such as 20."
        )
    if guidance is None:
        return
    if not (isinstance(guidance, int | float) and math.isfinite(guidance) and 0 <= guidance <= MAX_GUIDANCE):
        raise UserError(
            f"{prefix}guidance {guidance!r} is out of range; give a number from 0 to {MAX_GUIDANCE:.0f}, such as 3."
        )


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, Integral) and least <= int(value) <= most
