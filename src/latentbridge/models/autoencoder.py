"""Autoencoders between pictures and image latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentbridge.config import AutoencoderConfig

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class PatchAutoencoder(nn.Module):
    """A linear autoencoder of patches: principal components, each divided by the square root of its standard deviation.

    It is fitted in closed form, within seconds and deterministically. The square root keeps some of the components'
    order (coarse before fine along the diffusion path) without burying the weak ones in noise. Pictures are float
    [b, 3, h, w] in [-1, 1]; image latents are [b, channels, h / patch, w / patch], of unit variance overall.
    """

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.patch_px, self.channels = config.patch_px, config.channels
        size = 3 * config.patch_px**2
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.eye(size)[:, : config.channels].contiguous())
        self.register_buffer("scale", torch.ones(config.channels))

    @torch.no_grad()
    def fit(self, pictures: Tensor) -> None:
        """Fit mean, basis and scale to float [n, 3, h, w] pictures."""
        patches = self._patches(pictures).flatten(0, 2).double()
        mean = patches.mean(dim=0)
        variances, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
        channels = self.channels
        basis = vectors.flip(1)[:, :channels]
        basis = basis * basis[basis.abs().argmax(dim=0), torch.arange(channels)].sign()
        deviation = variances.flip(0)[:channels].clamp_min(1e-8).sqrt()
        overall = deviation.mean().sqrt()
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        self.scale.copy_(1 / (deviation.sqrt() * overall))

    def encode(self, pictures: Tensor) -> Tensor:
        """Return image latents [b, channels, h / patch, w / patch] of float [b, 3, h, w] pictures in [-1, 1]."""
        latents = ((self._patches(pictures) - self.mean) @ self.basis) * self.scale
        return latents.movedim(-1, 1).contiguous()

    def decode(self, image_latents: Tensor) -> Tensor:
        """Return pictures [b, 3, h, w], not clamped, of image latents."""
        patches = (image_latents.movedim(1, -1) / self.scale) @ self.basis.T + self.mean
        return F.pixel_shuffle(patches.movedim(-1, 1), self.patch_px).contiguous()

    def _patches(self, pictures: Tensor) -> Tensor:
        return F.pixel_unshuffle(pictures, self.patch_px).movedim(1, -1).contiguous()


class KLAutoencoder(nn.Module):
    """diffusers' AutoencoderKL with the interface of `PatchAutoencoder`; image latents are scaled posterior modes.

    Inputs are made contiguous, because torch's kernels for channels-last memory err by 1e-4 where these err by 1e-6.
    """

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae
        sizes = dict(vae.config)
        self.patch_px = 2 ** (len(sizes["block_out_channels"]) - 1)
        self.channels: int = sizes["latent_channels"]
        self.scale, self.shift = sizes["scaling_factor"], sizes["shift_factor"] or 0.0

    def encode(self, pictures: Tensor) -> Tensor:
        """Return image latents [b, channels, h / patch, w / patch] of float [b, 3, h, w] pictures in [-1, 1]."""
        posterior = self.vae.encode(pictures.contiguous(), return_dict=False)[0]
        return (posterior.mode() - self.shift) * self.scale

    def decode(self, image_latents: Tensor) -> Tensor:
        """Return pictures [b, 3, h, w], not clamped, of image latents."""
        return self.vae.decode((image_latents / self.scale + self.shift).contiguous(), return_dict=False)[0]


Autoencoder = PatchAutoencoder | KLAutoencoder
"""Both have `patch_px`, `channels`, `encode` and `decode`."""


def kl_network(widths: Sequence[int], channels: int, attention: bool = False, **settings: Any) -> AutoencoderKL:
    """Build diffusers' AutoencoderKL with one level per width, finest first, each half the side of the one before.

    `attention` adds attention at the coarsest level of the encoder (KL-16 has none in its decoder); other `settings` are
    diffusers'.
    """
    from diffusers import AutoencoderKL

    coarsest = "AttnDownEncoderBlock2D" if attention else "DownEncoderBlock2D"
    levels: dict[str, Any] = {
        "block_out_channels": tuple(widths),
        "down_block_types": ("DownEncoderBlock2D",) * (len(widths) - 1) + (coarsest,),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
    }
    return AutoencoderKL(latent_channels=channels, **levels, **settings)
