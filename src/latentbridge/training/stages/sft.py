"""Stage 1: the backbone learns to understand, to rewrite prompts for drawing, and to rewrite descriptions for editing."""

from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from latentbridge.config import RunConfig
from latentbridge.data.worlds import Mixture
from latentbridge.models.qwen_vl import TokenBatch
from latentbridge.models.unified import Model
from latentbridge.rng import numpy_rng
from latentbridge.training.loop import Stage
from latentbridge.types import LossOutputs

_LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""The language model's projections only; peft's "all-linear" would take the vision tower too."""


class Sft(Stage):
    """Supervised fine-tuning on conversations, all backbone weights or LoRA (`lora_rank`); the vision tower moves only without LoRA."""

    def __init__(self, config: RunConfig):
        self.config = config
        self.worlds = Mixture(config.stage)

    def attach(self, model: Model) -> nn.Module | None:
        rank = self.config.stage.lora_rank
        if rank:
            inject_adapter_in_model(
                LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=_LORA_TARGETS), model.backbone.model
            )
        return None

    def detach(self, model: Model) -> None:
        for name, module in list(model.backbone.model.named_modules()):
            if isinstance(module, LoraLayer):
                module.merge()  # pyright: ignore[reportAttributeAccessIssue]
                parent, _, child = name.rpartition(".")
                setattr(model.backbone.model.get_submodule(parent), child, module.get_base_layer())

    def trainable(self, name: str) -> bool:
        return ("lora_" in name) if self.config.stage.lora_rank else name.startswith("model.backbone.")

    def batch(self, model: Model, step: int) -> TokenBatch:
        rng = numpy_rng(self.config.seed, "sft", step)
        talks = [self.worlds.pick(rng).converse(rng) for _ in range(self.config.batch_size)]
        return model.backbone.tokenize(talks)

    def loss(self, model: Model, batch: TokenBatch, rng: torch.Generator, heads: nn.Module | None) -> LossOutputs:
        language = model.backbone.language_loss(batch)
        return LossOutputs(language, {"language": float(language.detach())})
