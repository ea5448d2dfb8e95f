"""The codes of Janus-Pro's pictures: how the VQ model finds and shows them, and how it learns them.

A code is the one of n squares' latents, in direction, that its codebook has: the codebook was trained on unit vectors
(arXiv 2406.06525, section 2.1), and transformers decodes it so, but compares lengths as well when it encodes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.janus.modeling_janus import JanusVQVAE

from latentbridge.ranks import all_reduce_sum

_COMMITMENT = 0.25
"""Weight of the encoder's way to the codes against that of the codes to what the encoder finds (arXiv 1711.00937)."""
_ROUNDS = 10
"""Of k-means."""


class CodesLoss(NamedTuple):
    """What the VQ model minimises, each a scalar, and how much of its codebook it uses."""

    reconstruction: Tensor
    """Mean squared error of pixels in [-1, 1]."""
    quantisation: Tensor
    """Mean squared distance of latents to their codes: that which moves codes, plus a share that moves latents."""
    used: Tensor
    """Share of the codebook that some square of the batch takes, of all ranks."""


def square_latents(vq: JanusVQVAE, pixels: Tensor) -> Tensor:
    """What the encoder finds in the n squares of pixels [b 3 h w], as unit vectors [b n e]."""
    return F.normalize(vq.quant_conv(vq.encoder(pixels)), dim=1).flatten(2).mT


def codebook(vq: JanusVQVAE) -> Tensor:
    """The codes as unit vectors [codes e]."""
    return F.normalize(vq.quantize.embedding.weight, dim=-1)


def nearest_codes(latents: Tensor, book: Tensor) -> Tensor:
    """The nearest code by cosine of each of the latents [... e], int64."""
    return (latents @ book.T).argmax(-1)


def decode_entries(vq: JanusVQVAE, entries: Tensor) -> Tensor:
    """Pixels [b 3 h w] of codebook entries [b n e]."""
    squares = entries.unflatten(1, tuple(vq.quantize.quant_state_dims))
    return vq.decoder(vq.post_quant_conv(squares.permute(0, 3, 1, 2)))


def squares_loss(vq: JanusVQVAE, pixels: Tensor) -> Tensor:
    """Mean squared error of pixels drawn from the latents as they are, before there are codes."""
    return F.mse_loss(decode_entries(vq, square_latents(vq, pixels)).float(), pixels)


def codes_loss(vq: JanusVQVAE, pixels: Tensor) -> CodesLoss:
    """Reconstruction through the nearest codes, straight through their choice, and what keeps codes and latents together.

    LlamaGen, whose VQ model Janus-Pro takes, adds a perceptual and an adversarial loss for photographs; plain shapes need
    neither, and the libraries have no network for them.
    """
    latents, book = square_latents(vq, pixels), codebook(vq)
    codes = nearest_codes(latents, book)
    chosen = book[codes]
    quantisation = F.mse_loss(chosen, latents.detach()) + _COMMITMENT * F.mse_loss(latents, chosen.detach())
    drawn = decode_entries(vq, latents + (chosen - latents).detach())
    used = (all_reduce_sum(torch.bincount(codes.flatten(), minlength=len(book))) > 0).float().mean()
    return CodesLoss(F.mse_loss(drawn.float(), pixels), quantisation, used)


@torch.no_grad()
def init_codes(vq: JanusVQVAE, pixels: Tensor, rng: torch.Generator) -> None:
    """Set the codebook to centres of what the encoder finds in pixels [b 3 h w] (spherical k-means), so that every code has
    squares of its own from the first step; codes that nothing is near never learn.

    Of equal latents one counts: most squares of a scene are plain background, and would take most codes.
    """
    latents = square_latents(vq, pixels).flatten(0, 1).unique(dim=0)
    order, count = torch.randperm(len(latents), generator=rng), len(vq.quantize.embedding.weight)
    book = latents[order[torch.arange(count) % len(order)]]
    for _ in range(_ROUNDS):
        sums = torch.zeros_like(book).index_add_(0, nearest_codes(latents, book), latents)
        book = F.normalize(sums.where(sums.any(1, keepdim=True), book), dim=-1)
    vq.quantize.embedding.weight.copy_(book)
