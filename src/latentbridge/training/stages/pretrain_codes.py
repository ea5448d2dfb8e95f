"""Pretraining of Janus-Pro's VQ model: the stand-in for what LlamaGen's tokenizer brings to the release."""

from __future__ import annotations

from typing import Any

import torch

from latentbridge.config import RunConfig
from latentbridge.data.worlds import Mixture
from latentbridge.models.backbones.janus.codes import codes_loss, init_codes, squares_loss
from latentbridge.models.backbones.janus.modeling_janus import JanusPro
from latentbridge.ranks import local_rows
from latentbridge.rng import numpy_rng, torch_rng
from latentbridge.training.fits.autoencoder import sample_pictures
from latentbridge.training.stage import Stage
from latentbridge.types import LossOutputs, Picture

_INIT_PICTURES = 500


class PretrainSquares(Stage):
    """Pictures of the worlds drawn again from what the VQ model finds in their squares; only it moves.

    Codes come later (`PretrainCodes`): chosen from the first step on, nine in ten were dead within a hundred, for an
    encoder that has seen nothing makes all squares alike (2026-11-23).
    """

    trains = ("janus",)
    many_ranks = True
    by_block = False
    """The quantiser, a block of its own to transformers, is read without being called."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.worlds = Mixture(config.stage, config.seed)

    def trainable(self, name: str) -> bool:
        return name.startswith("model.model.model.vqmodel.")

    def batch(self, model: JanusPro, step: int) -> list[Picture]:
        rng = numpy_rng(self.config.seed, "pretrain codes", step)
        return local_rows(
            [self.worlds.world_at(rng, number).sample_captioned_picture(rng)[0] for number in self.config.samples(step)]
        )

    def loss(self, model: JanusPro, batch: list[Picture], rng: torch.Generator, heads: Any) -> LossOutputs:
        loss = squares_loss(model.model.model.vqmodel, model.pixel_values(batch))
        return LossOutputs(loss, {"reconstruction": loss.item()})


class PretrainCodes(PretrainSquares):
    """The same through the nearest codes, which start where squares of pictures lie."""

    def prepare(self, model: JanusPro) -> None:
        pictures = sample_pictures(self.worlds, _INIT_PICTURES, model.image_size_px, self.config.seed)
        rng = torch_rng(self.config.seed, "first codes")
        init_codes(model.model.model.vqmodel, model.pixel_values(pictures), rng)

    def loss(self, model: JanusPro, batch: list[Picture], rng: torch.Generator, heads: Any) -> LossOutputs:
        found = codes_loss(model.model.model.vqmodel, model.pixel_values(batch))
        parts = {name: value.item() for name, value in found._asdict().items()}
        return LossOutputs(found.reconstruction + found.quantisation, parts)
