"""Stage 1: the backbone learns to understand, to rewrite prompts for drawing, and to rewrite descriptions for editing."""

from __future__ import annotations

import torch
from torch import nn

from latentbridge.config import RunConfig
from latentbridge.data.worlds import Mixture
from latentbridge.models.qwen_vl import TokenBatch
from latentbridge.models.unified import Model
from latentbridge.rng import numpy_rng
from latentbridge.training.loop import Stage
from latentbridge.types import LossOutputs


class Sft(Stage):
    """Supervised fine-tuning on conversations, all backbone weights or LoRA (`lora_rank`)."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.worlds = Mixture(config.stage)

    def trainable(self, name: str) -> bool:
        return name.startswith("model.backbone.")

    def batch(self, model: Model, step: int) -> TokenBatch:
        rng = numpy_rng(self.config.seed, "sft", step)
        talks = [self.worlds.pick(rng).converse(rng) for _ in range(self.config.batch_size)]
        return model.backbone.tokenize(talks)

    def loss(self, model: Model, batch: TokenBatch, rng: torch.Generator, heads: nn.Module | None) -> LossOutputs:
        language = model.backbone.language_loss(batch)
        return LossOutputs(language, {"language": float(language.detach())})
