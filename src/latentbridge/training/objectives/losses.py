"""Losses of the alignment stage: retrieval InfoNCE over all ranks, and distillation of the text encoder."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from latentbridge.ranks import global_mean, rank, world_size


class RetrievalLoss(NamedTuple):
    """The total loss and its parts before weighting, all scalars."""

    total: Tensor
    image_to_text: Tensor
    text_to_image: Tensor
    text_to_text: Tensor


def retrieval_loss(
    image: Tensor, text: Tensor, image_ids: Tensor, scale: Tensor, text_to_text_weight: float = 0.05
) -> RetrievalLoss:
    """Return InfoNCE of this rank's pairs against the pairs of all ranks, with soft targets over equal ids.

    Row i of `image` and `text` [n e], unit vectors, and of `image_ids` [n] is one pair; an image recurs with each of its
    captions, and n is the same on every rank. `scale` is exp(logit_scale). In text-to-text, captions whose image has no
    other are left out, and a caption itself is no target but stays in the denominator. The mean over ranks has the
    gradient of the loss over the global batch. Source: OmniBridge, released code (not halved, unlike CLIP), which averages
    text_to_text over each rank's own rows; here it is averaged over all.
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
    """Return the float32 mean squared error to the frozen mT5 encoder's output, over all positions including padding.

    Source: OmniBridge, released code; the paper describes diffusion training here.
    """
    return F.mse_loss(latents.float(), target.float())


def gather(rows: Tensor) -> Tensor:
    """Return the rows [world * n, ...] of all ranks in rank order, with gradients summed over ranks.

    Own code: `torch.distributed.nn.functional.all_gather` is deprecated, and processes that gathered by
    `DTensor.full_tensor` were now and then aborted at their end (torch 2.13, gloo).
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
    """Return the cross-entropy [n] of logits [n m] to a uniform distribution over each row's positives; 0 without any."""
    targets = positives / positives.sum(-1, keepdim=True).clamp(min=1)
    return -(targets * logits.log_softmax(-1)).sum(-1)
