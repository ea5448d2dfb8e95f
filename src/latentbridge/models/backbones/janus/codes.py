"""Encoding, decoding and training of the image codes of Janus-Pro's VQ model.

A latent is quantised to the codebook entry nearest in direction: the codebook was trained on unit vectors
(arXiv 2406.06525, section 2.1), and transformers decodes it so, but compares norms as well when it encodes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.models.janus.modeling_janus import JanusVQVAE

from latentbridge.ranks import all_reduce_sum

_COMMITMENT = 0.25
"""Weight of the commitment loss beside the codebook loss (arXiv 1711.00937)."""
_ITERATIONS = 10
"""Iterations of k-means."""


class CodesLoss(NamedTuple):
    """The losses of the VQ model, each a scalar, and its codebook usage."""

    reconstruction: Tensor
    """Mean squared error of pixels in [-1, 1]."""
    quantisation: Tensor
    """Codebook loss plus weighted commitment loss: mean squared distances of latents and codes."""
    used: Tensor
    """Share of the codebook that the batch of all ranks uses."""


def square_latents(vq: JanusVQVAE, pixels: Tensor) -> Tensor:
    """Return the encoder's latents of the n squares of pixels [b 3 h w], as unit vectors [b n e]."""
    return F.normalize(vq.quant_conv(vq.encoder(pixels)), dim=1).flatten(2).mT


def codebook(vq: JanusVQVAE) -> Tensor:
    """Return the codebook as unit vectors [codes e]."""
    return F.normalize(vq.quantize.embedding.weight, dim=-1)


def nearest_codes(latents: Tensor, book: Tensor) -> Tensor:
    """Return the index of the nearest code by cosine for latents [... e], int64."""
    return (latents @ book.T).argmax(-1)


def decode_entries(vq: JanusVQVAE, entries: Tensor) -> Tensor:
    """Return the pixels [b 3 h w] decoded from codebook entries [b n e]."""
    squares = entries.unflatten(1, tuple(vq.quantize.quant_state_dims))
    squares = squares.permute(0, 3, 1, 2).contiguous()  # strided, convolutions round otherwise than the authors'
    return vq.decoder(vq.post_quant_conv(squares))


def squares_loss(vq: JanusVQVAE, pixels: Tensor) -> Tensor:
    """Return the mean squared error of pixels decoded from unquantised latents."""
    return F.mse_loss(decode_entries(vq, square_latents(vq, pixels)).float(), pixels)


def codes_loss(vq: JanusVQVAE, pixels: Tensor) -> CodesLoss:
    """Return the VQ-VAE losses of pixels, with a straight-through gradient at the quantisation.

    LlamaGen, whose VQ model Janus-Pro uses, adds a perceptual and an adversarial loss for photographs; plain shapes need
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
    """Initialise the codebook by spherical k-means over the latents of pixels [b 3 h w]; unused codes would never learn.

    Equal latents count once: most squares of a scene are plain background and would take most codes.
    """
    latents = square_latents(vq, pixels).flatten(0, 1).unique(dim=0)
    order, count = torch.randperm(len(latents), generator=rng), len(vq.quantize.embedding.weight)
    book = latents[order[torch.arange(count) % len(order)]]
    for _ in range(_ITERATIONS):
        sums = torch.zeros_like(book).index_add_(0, nearest_codes(latents, book), latents)
        book = F.normalize(sums.where(sums.any(1, keepdim=True), book), dim=-1)
    vq.quantize.embedding.weight.copy_(book)
