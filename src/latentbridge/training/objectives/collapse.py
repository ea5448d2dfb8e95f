"""Has a latent space collapsed? Measures on held-out pairs that see it, and a guard that stops the run.

Neither the losses, which are lowest in collapsed runs, nor effective rank and centred retrieval, which rise there, see
it, so the last two are not measured at all (spec LatentUMM 2.2, P1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.errors import UserError


class CollapseMeasures(NamedTuple):
    """Near 0 in all three where latents of different pairs cannot be told apart."""

    separation: float
    """Cosine of caption and own picture minus that of caption and another's picture, means over all of either."""
    spread: float
    """Norm of the per-dimension standard deviations over the mean norm; of captions or pictures, the smaller."""
    recall: float
    """Share of generated embeddings whose nearest target is their own."""


@torch.no_grad()
def measure_collapse(text: Tensor, image: Tensor, generated: Tensor, targets: Tensor) -> CollapseMeasures:
    """The measures of n held-out pairs that differ from each other: latents [n d], embeddings [n e] of what was drawn
    from them and of what should have been."""
    cosines = F.normalize(text.float(), dim=-1) @ F.normalize(image.float(), dim=-1).T
    count = len(cosines)
    paired = cosines.diagonal().mean()
    shuffled = (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))
    nearest = (F.normalize(generated.float(), dim=-1) @ F.normalize(targets.float(), dim=-1).T).argmax(-1)
    right = nearest == torch.arange(count, device=nearest.device)
    return CollapseMeasures(
        separation=(paired - shuffled).item(),
        spread=min(_spread(text), _spread(image)),
        recall=right.float().mean().item(),
    )


@dataclass(frozen=True)
class CollapseGuard:
    """Stops a run whose latents have become one.

    Both limits must be passed, since a fresh or a good young run passes one of them (spec 2.4: .006 and .22 at step
    100 of a run that ends at .23 and .52; collapsed ones end at .0001 and .016). Recall decides nothing: it is at
    chance in a fresh run, too.
    """

    warmup_steps: int
    min_separation: float = 0.02
    min_spread: float = 0.1

    def check(self, step: int, measures: CollapseMeasures) -> None:
        """Raises UserError when the run has collapsed at `step`; before `warmup_steps` nothing is held against it."""
        apart = measures.separation >= self.min_separation or measures.spread >= self.min_spread
        if step < self.warmup_steps or apart:
            return
        raise UserError(
            f"The latents collapsed by step {step}: captions match their own pictures by only {measures.separation:.4f} "
            f"more cosine than others' (at least {self.min_separation} wanted), latents vary by {measures.spread:.3f} of "
            f"their norm (at least {self.min_spread} wanted), and {measures.recall:.1%} of what is drawn is nearest its "
            "own target; raise the anchor and contrast weights of the anchored objective and start again in another folder."
        )


def _spread(latents: Tensor) -> float:
    latents = latents.float()
    return (latents.std(0).norm() / latents.norm(dim=-1).mean().clamp(min=1e-12)).item()
