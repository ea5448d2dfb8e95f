from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentbridge.config import AutoencoderConfig
from latentbridge.models.autoencoder import KLAutoencoder, PatchAutoencoder, kl_network

PATCH_PX = 2
FULL = 3 * PATCH_PX**2
ATOL = 1e-4  # float32 rounding of values of order 1 through two products and a division by small spreads


def smooth_pictures(count: int = 40) -> Tensor:
    """Pictures whose pixels vary together, so that components differ in spread: float [n, 3, 8, 8]."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randn(count, 3, 2, 2, generator=rng).repeat_interleave(4, 2).repeat_interleave(4, 3)
    return (coarse + 0.2 * torch.randn(count, 3, 8, 8, generator=rng)).tanh()


def fitted(channels: int) -> PatchAutoencoder:
    autoencoder = PatchAutoencoder(AutoencoderConfig(PATCH_PX, channels))
    autoencoder.fit(smooth_pictures())
    return autoencoder


def test_all_components_reconstruct_exactly():
    pictures = smooth_pictures()
    latents = fitted(FULL).encode(pictures)
    assert latents.shape == (40, FULL, 4, 4)
    assert (fitted(FULL).decode(latents) - pictures).abs().max() < ATOL
    assert (fitted(FULL - 1).decode(fitted(FULL - 1).encode(pictures)) - pictures).abs().max() > 100 * ATOL


def test_components_are_sorted_by_variance_and_latents_have_unit_variance():
    latents = fitted(FULL).encode(smooth_pictures()).movedim(1, -1).flatten(0, 2)
    spread = latents.var(dim=0)
    assert (spread.diff() < 0).all()
    assert spread.mean().item() == pytest.approx(1.0, abs=1e-3)
    assert (torch.cov(latents.T) - spread.diag()).abs().max() < 1e-3  # components are uncorrelated


def test_a_latents_deviation_is_the_root_of_its_components():
    pictures = smooth_pictures()
    autoencoder = fitted(FULL)
    raw = (autoencoder._patches(pictures) - autoencoder.mean) @ autoencoder.basis
    deviation = raw.flatten(0, 2).std(dim=0)
    latents = autoencoder.encode(pictures).movedim(1, -1).flatten(0, 2).std(dim=0)
    ratio = latents / deviation.sqrt()
    assert ratio.max() / ratio.min() == pytest.approx(1.0, abs=1e-3)


def test_encoding_a_decoded_latent_returns_it():
    autoencoder = fitted(5)
    latents = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(1))
    assert (autoencoder.encode(autoencoder.decode(latents)) - latents).abs().max() < ATOL
    once = autoencoder.decode(autoencoder.encode(smooth_pictures()))
    assert (autoencoder.decode(autoencoder.encode(once)) - once).abs().max() < ATOL


def test_each_patch_maps_to_one_latent():
    autoencoder = fitted(FULL)
    picture = smooth_pictures(1)
    shifted = picture.clone()
    shifted[0, :, 2:4, 6:8] += 0.5
    changed = (autoencoder.encode(shifted) != autoencoder.encode(picture)).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[1, 3]]


def test_a_kl_network_halves_at_each_level_and_its_encoder_attends_at_the_coarsest():
    vae = kl_network([4, 4, 8], channels=5, attention=True, norm_num_groups=2, scaling_factor=2.0)
    autoencoder = KLAutoencoder(vae)
    pictures = torch.randn(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    latents = autoencoder.encode(pictures)
    assert (autoencoder.patch_px, autoencoder.channels, autoencoder.scale) == (4, 5, 2.0)
    assert latents.shape == (1, 5, 2, 3) and autoencoder.decode(latents).shape == pictures.shape
    attending = [block for block in (*vae.encoder.down_blocks, *vae.decoder.up_blocks) if hasattr(block, "attentions")]
    assert attending == [vae.encoder.down_blocks[-1]]
