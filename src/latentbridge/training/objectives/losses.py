"""What alignment minimises: a contrastive loss over all ranks and a distillation of the text encoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from latentbridge.ranks import global_mean, rank, world_size


class RetrievalLoss(NamedTuple):
    """`total` is what to minimise; the others are its parts before weighting, all scalars."""

    total: Tensor
    image_to_text: Tensor
    text_to_image: Tensor
    text_to_text: Tensor


def retrieval_loss(
    image: Tensor, text: Tensor, image_ids: Tensor, scale: Tensor, text_to_text_weight: float = 0.05
) -> RetrievalLoss:
    """Contrastive loss of this rank's pairs against the pairs of all ranks, with soft targets over equal `image_ids`.

    Row i of `image` and `text` [n e], unit vectors, and of `image_ids` [n] is one (picture, caption) pair; a picture
    recurs with each of its captions, and n is the same on every rank. `scale` is exp(logit_scale). Caption against
    caption: rows without a second caption are left out, and the caption itself is no target but stays in the
    denominator, as in the release. The mean over ranks has the gradient of the loss over the global batch; the release
    averages text_to_text over each rank's own rows, here it is over all. Source: OmniBridge, released code (not halved, unlike CLIP).
    """
    image, text = image.float(), text.float()
    images, texts, ids = gather(image), gather(text), gather(image_ids)
    same = (image_ids[:, None] == ids).float()
    image_to_text = _soft_cross_entropy(scale * image @ texts.T, same).mean()
    text_to_image = _soft_cross_entropy(scale * text @ images.T, same).mean()

    rows = torch.arange(len(image_ids), device=same.device)
    others = same.index_put((rows, rows + len(rows) * rank()), same.new_zeros(()))
    paired = others.sum(-1) > 0
    text_to_text = global_mean(_soft_cross_entropy(scale * text @ texts.T, others)[paired].sum(), paired.sum())
    total = image_to_text + text_to_image + text_to_text_weight * text_to_text
    return RetrievalLoss(total, image_to_text, text_to_image, text_to_text)


def distillation_loss(latents: Tensor, target: Tensor) -> Tensor:
    """Mean squared error to the frozen mT5 encoder's output in float32, over all positions, padding included.

    Source: OmniBridge, released code; it stands where the paper speaks of diffusion training.
    """
    return F.mse_loss(latents.float(), target.float())


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks [world * n, ...] in rank order; `rows` itself outside a process group.

    The gradient is summed over ranks, so averaging parameter gradients afterwards gives that of the mean loss.
    """
    return _Gather.apply(rows) if world_size() > 1 else rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


def _soft_cross_entropy(logits: Tensor, positives: Tensor) -> Tensor:
    """[n m] -> [n]: cross-entropy to the uniform distribution over each row's positives; 0 where a row has none."""
    targets = positives / positives.sum(-1, keepdim=True).clamp(min=1)
    return -(targets * logits.log_softmax(-1)).sum(-1)
