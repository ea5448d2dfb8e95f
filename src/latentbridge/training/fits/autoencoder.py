"""Closed-form fit of the linear autoencoder to images of a run's data."""

from __future__ import annotations

from latentbridge.data.worlds import Mixture
from latentbridge.images import fit_square
from latentbridge.models.autoencoder import PatchAutoencoder
from latentbridge.models.pixels import to_pixels
from latentbridge.rng import numpy_rng
from latentbridge.types import Picture

_FIT_PICTURES = 3000


def fit_autoencoder(autoencoder: PatchAutoencoder, worlds: Mixture, side_px: int, seed: int) -> None:
    """Fit an autoencoder to `_FIT_PICTURES` images of `side_px` squared."""
    autoencoder.fit(to_pixels(sample_pictures(worlds, _FIT_PICTURES, side_px, seed)))


def sample_pictures(worlds: Mixture, count: int, side_px: int, seed: int) -> list[Picture]:
    """Sample images for a fit."""
    rng = numpy_rng(seed, "autoencoder fit")
    return [
        fit_square(worlds.world_at(rng, number).sample_captioned_picture(rng)[0], side_px) for number in range(count)
    ]
