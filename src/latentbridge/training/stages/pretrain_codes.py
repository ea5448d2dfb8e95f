"""Pretraining of Janus-Pro's VQ model, in place of LlamaGen's released tokenizer."""

from __future__ import annotations

from typing import Any

import torch

from latentbridge.models.backbones.janus.codes import codes_loss, init_codes, squares_loss
from latentbridge.models.backbones.janus.modeling_janus import JanusPro
from latentbridge.ranks import local_rows
from latentbridge.rng import numpy_rng, torch_rng
from latentbridge.training.fits.autoencoder import sample_pictures
from latentbridge.training.stage import DataStage
from latentbridge.types import LossOutputs, Picture

_INIT_PICTURES = 500


class PretrainSquares(DataStage):
    """Reconstruction by the VQ model's encoder and decoder without quantisation; nothing else is trained.

    Codes follow (`PretrainCodes`): used from the first step on, nine in ten were dead within a hundred steps, because an
    untrained encoder maps all squares to about the same vector (2026-11-23).
    """

    trains = ("janus",)
    many_ranks = True
    by_block = False
    """The quantiser, a block of its own in transformers, is read without being called."""

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
    """Reconstruction through the nearest codes (VQ-VAE), which are initialised with encoded squares of pictures."""

    def prepare(self, model: JanusPro) -> None:
        pictures = sample_pictures(self.worlds, _INIT_PICTURES, model.image_size_px, self.config.seed)
        rng = torch_rng(self.config.seed, "first codes")
        init_codes(model.model.model.vqmodel, model.pixel_values(pictures), rng)

    def loss(self, model: JanusPro, batch: list[Picture], rng: torch.Generator, heads: Any) -> LossOutputs:
        losses = codes_loss(model.model.model.vqmodel, model.pixel_values(batch))
        parts = {name: value.item() for name, value in losses._asdict().items()}
        return LossOutputs(losses.reconstruction + losses.quantisation, parts)
