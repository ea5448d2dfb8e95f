"""Pretraining of text encoder and decoder: the stand-in for what released mT5 and HunyuanDiT weights bring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from latentbridge.config import RunConfig
from latentbridge.data.drawing_tasks import GROUNDS, drawable_drawings, show
from latentbridge.data.drawings import describe_drawing, load_drawings
from latentbridge.data.language import describe
from latentbridge.data.render import render
from latentbridge.data.scenes import scenes
from latentbridge.models.diffusion import diffusion_loss
from latentbridge.models.unified import Model
from latentbridge.rng import numpy_rng
from latentbridge.types import LossOutputs

UNCONDITIONAL_SHARE = 0.1
"""Share of samples that see the empty text, for classifier-free guidance."""
_FIT_PICTURES = 3000


@dataclass
class DrawBatch:
    """Pictures with what they show."""

    pictures: np.ndarray
    """uint8 [b, h, w, 3]."""
    texts: list[str]


class PretrainDecoder:
    """Diffusion under the text encoder's own states; moves text encoder and decoder, fits the autoencoder first.

    Reads `drawings` of the stage config.
    """

    def __init__(self, config: RunConfig):
        self.config = config
        self.drawings = load_drawings() if config.stage.drawings else None
        self.known = drawable_drawings(self.drawings) if self.drawings else []

    def prepare(self, model: Model) -> None:
        pictures = self._sample(numpy_rng(self.config.seed, "autoencoder fit"), _FIT_PICTURES).pictures
        model.autoencoder.fit(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1)

    def trainable(self, name: str, step: int) -> bool:
        return name.startswith(("model.decoder.", "model.text_encoder."))

    def attach(self, model: Model) -> nn.Module | None:
        return None

    def detach(self, model: Model) -> None:
        pass

    def batch(self, model: Model, step: int) -> DrawBatch:
        rng = numpy_rng(self.config.seed, "pretrain decoder", step)
        batch = self._sample(rng, self.config.batch_size)
        batch.texts = ["" if rng.random() < UNCONDITIONAL_SHARE else text for text in batch.texts]
        return batch

    def loss(self, model: Model, batch: DrawBatch, rng: torch.Generator, heads: nn.Module | None) -> LossOutputs:
        condition = model.text_condition(batch.texts)
        clean: Tensor = model.encode_pictures(batch.pictures)
        loss = diffusion_loss(model.decoder, model.scheduler, clean, condition, rng)
        return LossOutputs(loss, {"diffusion": float(loss.detach())})

    def _sample(self, rng: np.random.Generator, count: int) -> DrawBatch:
        source = scenes("train", rng)
        pictures, texts = [], []
        for _ in range(count):
            if self.drawings is not None and rng.random() < self.config.stage.drawings:
                drawing = self.known[rng.integers(len(self.known))]
                ground = GROUNDS[rng.integers(len(GROUNDS))]
                pictures.append(show(self.drawings, drawing, ground))
                texts.append(describe_drawing(drawing, ground))
            else:
                scene = next(source)
                pictures.append(render(scene))
                texts.append(describe(scene))
        return DrawBatch(np.stack(pictures), texts)
