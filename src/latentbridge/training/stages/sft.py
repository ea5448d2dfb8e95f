"""Stage 1: the backbone learns to understand, to rewrite prompts for drawing, and to rewrite descriptions for editing."""

from __future__ import annotations

import torch
from torch import nn

from latentbridge.config import RunConfig
from latentbridge.data.worlds import Mixture
from latentbridge.devices import CPU
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.rng import numpy_rng
from latentbridge.training.parallel import local_conversations
from latentbridge.training.stage import Stage
from latentbridge.types import LossOutputs


class Sft(Stage):
    """Supervised fine-tuning on conversations, all backbone weights or LoRA (`lora_rank`)."""

    many_ranks = True

    def __init__(self, config: RunConfig):
        self.config = config
        self.worlds = Mixture(config.stage, config.seed)

    def trainable(self, name: str) -> bool:
        return name.startswith("model.backbone.")

    def batch(self, model: OmniBridge, step: int) -> TokenBatch:
        rng = numpy_rng(self.config.seed, "sft", step)
        talks = [self.worlds.pick(rng, number).converse(rng) for number in self.config.samples(step)]
        batch = model.backbone.tokenize(local_conversations(talks), device=CPU)
        return model.backbone.pack(batch) if self.config.stage.packed else batch

    def loss(self, model: OmniBridge, batch: TokenBatch, rng: torch.Generator, heads: nn.Module | None) -> LossOutputs:
        language = model.backbone.language_loss(batch)
        return LossOutputs(language, {"language": float(language.detach())})
