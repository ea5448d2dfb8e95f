"""Pretraining of a whole backbone from nothing: the stand-in for what released Janus-Pro, BAGEL and Harmon weights bring."""

from __future__ import annotations

from latentbridge.models.autoencoder import PatchAutoencoder
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.checkpoint import Network
from latentbridge.training.fits.autoencoder import fit_autoencoder
from latentbridge.training.stages.native import Native


class PretrainUnified(Native):
    """The native losses and nothing else, over all that turns no latents into pixels.

    A linear autoencoder is fitted first, unless the run starts from one; codes of Janus-Pro come from `PretrainCodes`.
    There is no guard: latents that start alike must be allowed to be.
    """

    trains = ("janus", "bagel", "harmon")

    def prepare(self, model: Network) -> None:
        if not isinstance(model, (Bagel, Harmon)) or self.config.inherits("autoencoder."):
            return
        if isinstance(model.autoencoder, PatchAutoencoder):
            fit_autoencoder(model.autoencoder, self.worlds, model.drawing_size_px, self.config.seed)
