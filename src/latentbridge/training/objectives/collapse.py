"""Detection of collapsed latents from held-out pairs.

Losses are lowest in collapsed runs, and effective rank and centred retrieval rise, so none of these is used
(spec LatentUMM 2.2, P1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.errors import UserError


class CollapseMeasures(NamedTuple):
    """Metrics that are all near 0 if latents of different pairs are alike."""

    separation: float
    """Mean cosine of captions and their own images minus that of captions and other images."""
    spread: float
    """Norm of the per-dimension standard deviations over the mean norm; the smaller of captions' and images'."""
    recall: float
    """Recall@1 of the targets by generated embeddings."""


@torch.no_grad()
def measure_collapse(text: Tensor, image: Tensor, generated: Tensor, targets: Tensor) -> CollapseMeasures:
    """Return the metrics of n distinct pairs: latents [n d], and embeddings [n e] of generated images and of their targets."""
    cosines = F.normalize(text.float(), dim=-1) @ F.normalize(image.float(), dim=-1).T
    count = len(cosines)
    paired = cosines.diagonal().mean()
    unpaired = (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))
    nearest = (F.normalize(generated.float(), dim=-1) @ F.normalize(targets.float(), dim=-1).T).argmax(-1)
    correct = nearest == torch.arange(count, device=nearest.device)
    return CollapseMeasures(
        separation=(paired - unpaired).item(),
        spread=min(_spread(text), _spread(image)),
        recall=correct.float().mean().item(),
    )


@dataclass(frozen=True)
class CollapseGuard:
    """A check that stops a run whose latents have collapsed.

    Separation and spread must both be below their limits, since one of them is in a new run and in a good early one
    (spec 2.4: .006 and .22 at step 100 of a run that ends at .23 and .52; collapsed ones end at .0001 and .016). Recall has
    no limit, as it is at chance in a new run.
    """

    warmup_steps: int
    min_separation: float = 0.02
    min_spread: float = 0.1

    def check(self, step: int, measures: CollapseMeasures) -> None:
        """Raise UserError if the latents have collapsed, unless `step` is before `warmup_steps`."""
        healthy = measures.separation >= self.min_separation or measures.spread >= self.min_spread
        if step < self.warmup_steps or healthy:
            return
        raise UserError(
            f"The latents collapsed by step {step}: captions match their own images by only {measures.separation:.4f} "
            f"more cosine than others' (minimum {self.min_separation}), latents vary by {measures.spread:.3f} of "
            f"their norm (minimum {self.min_spread}), and {measures.recall:.1%} of generated images are nearest their "
            "own target; raise the anchor and contrast weights of the anchored objective and start again in another folder."
        )


def _spread(latents: Tensor) -> float:
    latents = latents.float()
    return (latents.std(0).norm() / latents.norm(dim=-1).mean().clamp(min=1e-12)).item()
