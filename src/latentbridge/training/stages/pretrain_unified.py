"""Pretraining of a whole backbone from random weights, in place of released Janus-Pro, BAGEL and Harmon weights."""

from __future__ import annotations

from latentbridge.models.autoencoder import PatchAutoencoder
from latentbridge.models.backbones.bagel.modeling_bagel import Bagel
from latentbridge.models.backbones.harmon.modeling_harmon import Harmon
from latentbridge.models.checkpoint import Network
from latentbridge.training.fits.autoencoder import fit_autoencoder
from latentbridge.training.stages.native import NativeStage


class PretrainUnified(NativeStage):
    """The native losses alone, over all parameters but the autoencoder's.

    A linear autoencoder is fitted first, unless the run starts from one; Janus-Pro's codes come from `PretrainCodes`.
    There is no collapse guard, because latents of random weights start out alike.
    """

    trains = ("janus", "bagel", "harmon")

    def prepare(self, model: Network) -> None:
        if not isinstance(model, (Bagel, Harmon)) or self.config.inherits("autoencoder."):
            return
        if isinstance(model.autoencoder, PatchAutoencoder):
            fit_autoencoder(model.autoencoder, self.worlds, model.drawing_size_px, self.config.seed)
