"""LatentUMM (arXiv 2605.17766): alignment of a model's understanding and generation latents.

    L = L_modal + lambda_1 L_task + lambda_2 L_pref        z^ = roundtrip(z), z_k = z + noise_k, s_k = cos(z, z^_k)

z_t and z_v are the latents of a caption and of its image, z the latent to draw from, and `roundtrip` draws an image from it
and encodes that image. `objective="reference"` computes the released code's numbers. "anchored" is ours; the weaknesses
are measured in spec LatentUMM 2.2:

- W1: with all latents equal, the released modal and task losses and their gradients are 0, and training reaches that.
  Anchored adds `contrast`, and an anchor to frozen embeddings that is not averaged over dimensions.
- W2: the released preference loss is also lowered by a worse worst rollout, and that is what happens. Anchored has
  gradient through the best rollout only.
- W3: released noise has an absolute size, so its effect depends on the scale of z. Anchored: relative to the RMS.
- W4, W5: errors averaged over dimensions vanish beside a diffusion loss, and shrinking z lowers them. Anchored uses
  cosine distances. That image states can contain the caption must be prevented by the backbone.
- W6: there were no negatives and no held-out metrics. Anchored: `contrast`, and `training/objectives/collapse.py`.
- The released round trip compares pooled latents only. Trained on cosine alone, drawings had a mean cosine of .86 but no
  more than 2 of 32 were nearest their own. Anchored adds `cycle`, the likelihood of the caption given the drawn image.
- W7: modal and anchor conflict if the frozen embeddings of captions and images are apart: see `centre`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from latentbridge.config import LatentUMMWeights
from latentbridge.errors import UserError
from latentbridge.ranks import per_rank_random
from latentbridge.training.objectives.losses import retrieval_loss

Objective = Literal["anchored", "reference"]
RoundTrip = Callable[[Tensor], Tensor]
"""Maps z [m b d], flattened to [m * b d], to its round trip in the same order: row j belongs to pair j mod b."""
TERMS = ("modal", "task", "preference", "anchor", "contrast", "cycle")


@dataclass
class LatentPairs:
    """Latents of b pairs of caption and image, with gradients, of any precision."""

    text: Tensor
    """z_t, [b e]."""
    image: Tensor
    """z_v, [b e]."""
    z: Tensor
    """[b d], the latent to draw from; may be `text` or `image` itself."""
    ids: Tensor
    """int64 [b], equal for pairs with the same image, over all ranks."""
    anchors: tuple[tuple[Tensor, Tensor], ...] = ()
    """Pairs of a prediction and its frozen target embedding, both [m e]. Not in the paper or released stage 2."""
    cycle: Tensor | None = None
    """The negative log-likelihood of the captions given the images drawn from z, a scalar; not in the paper."""
    anchor_weight: float = 1.0
    """Factor on the mean over this rank's m anchors (`ranks.global_mean_weight`)."""


class LatentUMMLoss(NamedTuple):
    """The total loss and its six terms before weighting, all scalars, and the rollouts' scores."""

    total: Tensor
    modal: Tensor
    task: Tensor
    preference: Tensor
    anchor: Tensor
    contrast: Tensor
    cycle: Tensor
    scores: Tensor
    """s_k, [k b], without gradient."""
    weighted: dict[str, Tensor]
    """The weighted terms by name."""

    def parts(self) -> dict[str, float]:
        """Return the metrics to log. The best score must rise; the margin of best and worst, which the release logs, need not."""
        parts = {name: getattr(self, name).item() for name in TERMS}
        if len(self.scores):
            parts["best"] = self.scores.amax(0).mean().item()
            parts["worst"] = self.scores.amin(0).mean().item()
            parts["mean"] = self.scores.mean().item()
        return parts


def latentumm_loss(
    pairs: LatentPairs,
    roundtrip: RoundTrip,
    noise: Tensor,
    weights: LatentUMMWeights | None = None,
    *,
    objective: Objective = "anchored",
) -> LatentUMMLoss:
    """Return the float32 loss of b pairs with k rollouts from z + `noise` [k b d].

    Reference: `roundtrip` is called once, for z and all rollouts. Anchored: once without gradient for all rollouts, then
    once with gradient for z and the best of them; terms without weight are skipped or have no gradient. With fewer than
    two rollouts the preference is 0.
    """
    weights = weights or LatentUMMWeights()
    text, image, z = pairs.text.float(), pairs.image.float(), pairs.z.float()
    zero = z.new_zeros(())
    if objective == "reference":
        returned, scores = roundtrip_all(z, noise, roundtrip)
        modal = F.mse_loss(text, image)
        task = F.mse_loss(z, returned)
        errors = [F.mse_loss(predicted.float(), target.float()) for predicted, target in pairs.anchors]
        contrast = cycle = zero
    else:
        aligned = weights.modal or weights.task or weights.preference
        if aligned and not (pairs.anchors and weights.anchor) and not weights.contrast:
            raise UserError("All latents could become equal; raise the contrast weight above 0.")
        returned, scores = z, z.new_zeros(0, len(z))
        if weights.task or weights.preference:
            returned, scores = roundtrip_best(z, noise if weights.preference else noise[:0], roundtrip)
        modal = mutual_distance(text, image)
        task = mutual_distance(z, returned)
        errors = [cosine_distance(predicted, target) for predicted, target in pairs.anchors]
        contrast = contrastive_loss(text, image, pairs.ids)
        cycle = zero if pairs.cycle is None else pairs.cycle
    anchor = pairs.anchor_weight * torch.stack(errors).mean() if errors else zero
    preference = preference_loss(scores, objective) if len(scores) > 1 else zero
    terms = dict(zip(TERMS, (modal, task, preference, anchor, contrast, cycle), strict=True))
    factors = {name: getattr(weights, name) for name in TERMS}
    weighted = {name: factors[name] * (term if factors[name] else term.detach()) for name, term in terms.items()}
    return LatentUMMLoss(sum(weighted.values(), zero), **terms, scores=scores.detach(), weighted=weighted)


def roundtrip_all(z: Tensor, noise: Tensor, roundtrip: RoundTrip) -> tuple[Tensor, Tensor]:
    """Return the round trip of z and the scores [k b] of all rollouts, both with gradient."""
    starts = torch.cat([z[None], z + noise])
    returned = roundtrip(starts.flatten(0, 1)).float().view_as(starts)
    return returned[0], F.cosine_similarity(z, returned[1:], dim=-1)


def roundtrip_best(z: Tensor, noise: Tensor, roundtrip: RoundTrip) -> tuple[Tensor, Tensor]:
    """Return the round trip of z and the scores [k b], with gradient through the best rollout of each pair."""
    if not len(noise):
        return roundtrip(z).float(), z.new_zeros(0, len(z))
    rollouts, pairs = z + noise, torch.arange(len(z), device=z.device)
    with torch.no_grad():
        returned = roundtrip(rollouts.flatten(0, 1)).float().view_as(rollouts)
        scores = F.cosine_similarity(z, returned, dim=-1)
    best = scores.argmax(0)
    returned, best_returned = roundtrip(torch.cat([z, rollouts[best, pairs]])).float().chunk(2)
    return returned, scores.index_put((best, pairs), F.cosine_similarity(z, best_returned, dim=-1))


def rollout_noise(
    z: Tensor, count: int, sigma: float, rng: torch.Generator, objective: Objective = "anchored"
) -> Tensor:
    """Return float32 noise [count b d] for z [b d]; `rng` is on the CPU.

    Anchored: sigma times the RMS of each latent, in antithetic pairs (k and k + count / 2 sum to zero), so that rollouts do
    not differ by their mean. Reference: absolute sigma, all independent; the release also draws in the latent's own
    precision, and bfloat16 loses up to half of it (W3).
    """
    if objective == "reference":
        return sigma * per_rank_random(torch.randn, (count, *z.shape), rng, dim=1).to(z.device)
    if count % 2:
        raise UserError(f"There are {count} rollouts; anchored noise comes in pairs, so give an even number.")
    half = per_rank_random(torch.randn, (count // 2, *z.shape), rng, dim=1).to(z.device)
    rms = z.detach().float().square().mean(-1, keepdim=True).sqrt()
    return sigma * rms * torch.cat([half, -half])


def preference_loss(scores: Tensor, objective: Objective = "anchored") -> Tensor:
    """Return the mean over pairs of -log sigmoid(best - worst) of the scores [k b].

    Anchored: no gradient through the worst score. Source: the released code (spec 1.1), as the paper's equation is lost.
    """
    best, worst = scores.amax(0), scores.amin(0)
    return -F.logsigmoid(best - (worst if objective == "reference" else worst.detach())).mean()


def contrastive_loss(text: Tensor, image: Tensor, ids: Tensor, temperature: float = 0.07) -> Tensor:
    """Return the symmetric InfoNCE of directions over the pairs of all ranks, with soft targets over equal `ids`."""
    scale = torch.tensor(1 / temperature, device=text.device)
    text, image = F.normalize(text, dim=-1), F.normalize(image, dim=-1)
    return retrieval_loss(image, text, ids, scale, text_to_text_weight=0.0).total / 2


def mutual_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine distance of a and b [b d] with half of its gradient.

    Half of it moves a towards a detached b, the other half b towards a detached a.
    """
    return 0.5 * cosine_distance(a, b.detach()) + 0.5 * cosine_distance(a.detach(), b)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the float32 mean of 1 - cosine over rows [b d].

    A squared error averaged over dimensions, as released, is smaller by a factor of d and does not prevent collapse even
    with weight 1 (spec 2.2, P1 against P4).
    """
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=-1).mean()


def centre(embeddings: Tensor, mean: Tensor) -> Tensor:
    """Return frozen embeddings [n e] of one modality as unit vectors after subtraction of the modality's `mean` [e].

    Otherwise no latent can be near both anchors of a pair (W7). The mean is that over the training set.
    """
    return F.normalize(embeddings.float() - mean.float(), dim=-1)
