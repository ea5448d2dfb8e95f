"""Stage 1: supervised fine-tuning of the backbone on understanding, prompt rewriting and edit descriptions."""

from __future__ import annotations

import torch
from torch import nn

from latentbridge.config import SftConfig
from latentbridge.devices import CPU
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.rng import numpy_rng
from latentbridge.training.parallel import local_conversations
from latentbridge.training.stage import DataStage
from latentbridge.types import LossOutputs


class Sft(DataStage):
    """Language loss on conversations, over all backbone weights or a LoRA adapter (`lora_rank`)."""

    many_ranks = True
    settings: SftConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def trainable(self, name: str) -> bool:
        return name.startswith("model.backbone.")

    def batch(self, model: OmniBridge, step: int) -> TokenBatch:
        rng = numpy_rng(self.config.seed, "sft", step)
        conversations = [self.conversation(rng, number) for number in self.config.samples(step)]
        batch = model.backbone.tokenize(local_conversations(conversations), device=CPU)
        return model.backbone.pack(batch) if self.settings.packed else batch

    def loss(self, model: OmniBridge, batch: TokenBatch, rng: torch.Generator, heads: nn.Module | None) -> LossOutputs:
        language = model.backbone.language_loss(batch)
        return LossOutputs(language, {"language": float(language.detach())})
