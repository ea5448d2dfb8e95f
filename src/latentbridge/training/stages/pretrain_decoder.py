"""Pretraining of text encoder and decoder: the stand-in for what released mT5 and HunyuanDiT weights bring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from latentbridge.config import RunConfig
from latentbridge.data.worlds import Mixture
from latentbridge.models.diffusion import diffusion_loss
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.ranks import local_rows
from latentbridge.rng import numpy_rng
from latentbridge.training.fits.autoencoder import fit_autoencoder
from latentbridge.training.stage import Stage
from latentbridge.types import LossOutputs

UNCONDITIONAL_SHARE = 0.1
"""Share of samples that see the empty text, for classifier-free guidance."""


@dataclass
class DrawBatch:
    """Pictures with what they show."""

    pictures: np.ndarray
    """uint8 [b, h, w, 3]."""
    texts: list[str]


class PretrainDecoder(Stage):
    """Diffusion under the text encoder's own states; moves decoder and text encoder, fits the autoencoder first
    (unless the run starts from one).

    Fed from the worlds of the stage config.
    """

    many_ranks = True

    def __init__(self, config: RunConfig):
        self.config = config
        self.worlds = Mixture(config.stage, config.seed)

    def prepare(self, model: OmniBridge) -> None:
        if self.config.inherits("autoencoder."):
            return
        side_px = model.config.decoder.grid * model.autoencoder.patch_px
        fit_autoencoder(model.autoencoder, self.worlds, side_px, self.config.seed)

    def trainable(self, name: str) -> bool:
        return name.startswith(("model.decoder.", "model.text_encoder."))

    def batch(self, model: OmniBridge, step: int) -> DrawBatch:
        rng = numpy_rng(self.config.seed, "pretrain decoder", step)
        samples = [self.worlds.pick(rng, number).depict(rng) for number in self.config.samples(step)]
        texts = ["" if rng.random() < UNCONDITIONAL_SHARE else text for _, text in samples]
        return DrawBatch(np.stack(local_rows([picture for picture, _ in samples])), local_rows(texts))

    def loss(self, model: OmniBridge, batch: DrawBatch, rng: torch.Generator, heads: nn.Module | None) -> LossOutputs:
        condition = model.text_condition(batch.texts)
        clean: Tensor = model.encode_pictures(batch.pictures)
        loss = diffusion_loss(model.decoder, model.scheduler, clean, condition, rng)
        return LossOutputs(loss, {"diffusion": float(loss.detach())})
