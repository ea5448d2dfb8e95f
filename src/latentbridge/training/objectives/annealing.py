"""How text conditioning gives way to learned queries over stage 2: z = beta * z_text + (1 - beta) * z_query (arXiv 2509.19018 eq. 2)."""

from __future__ import annotations

from math import cos, pi
from typing import Literal

import torch
from torch import Tensor

from latentbridge.models.omnibridge.aligner import draw_legacy_probability, draw_replaced, mix_convex
from latentbridge.ranks import local_rows, world_size

BetaSchedule = Literal["none", "step", "linear", "cosine", "ladder"]
_LADDER = (0, 0.005, 0.15, 0.75, 0.99, 2)
"""The released per-position replacement codes, in the order the paper's annealing implies (spec 3.2); each holds for a sixth of the annealing."""
ANNEALED_SHARE = 0.2
"""Share of the run over which text gives way; after it the queries stand alone. The paper states no schedule.

The queries learn little while text is there to copy: over a half-annealed run of 300 steps the distillation error was
.001 until text was nearly gone, then .41, as if untrained (docs/LOG.md, 2026-11-22).
"""


def beta_at(schedule: BetaSchedule, progress: float) -> float:
    """The weight of the text in [0, 1] at `progress` in [0, 1] of the run; "none" uses queries alone from the start."""
    done = min(1.0, progress / ANNEALED_SHARE)
    if schedule == "none":
        return 0.0
    if schedule == "step":
        return float(done < 1.0)
    if schedule == "cosine":
        return (1 + cos(pi * done)) / 2
    return 1.0 - done


def mix_text_and_queries(
    schedule: BetaSchedule, progress: float, text: Tensor, queries: Tensor, rng: torch.Generator
) -> Tensor:
    """The aligner's input [b n d]: text embeddings [b n d] and queries [1 n d], mixed as the schedule says.

    "ladder" is the released code: whole positions are replaced at random, with the released probabilities in turn. Rows
    are this rank's, and chance is drawn for those of all.
    """
    if schedule == "ladder":
        rung = min(len(_LADDER) - 1, int(len(_LADDER) * progress / ANNEALED_SHARE))
        probability = draw_legacy_probability(_LADDER[rung], rng)
        replaced = local_rows(draw_replaced(len(text) * world_size(), text.shape[1], probability, rng))
        return torch.where(replaced.to(text.device)[..., None], queries, text)
    return mix_convex(text, queries, beta_at(schedule, progress))
