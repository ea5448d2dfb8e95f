"""Step-GRPO: reinforcement learning with rewards for answers, intermediate steps and the form of reasoning."""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from latentbridge.config import RunConfig, StepGrpoConfig
from latentbridge.models.adapters import without_adapter
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.qwen_vl.sampling import reply_log_probs
from latentbridge.rng import numpy_rng
from latentbridge.training.objectives.grpo import group_advantages, grpo_loss
from latentbridge.training.rollouts import Rollouts, roll_out
from latentbridge.training.stage import DataStage
from latentbridge.types import LossOutputs


class StepGrpo(DataStage):
    """R1-VL's StepGRPO (arXiv 2503.12937) on problems of `shapes` and of the user's data.

    `batch_size` counts problems, each with a group of replies. Replies are sampled in `batch`, so a resumed run samples
    them again from the same weights, and each batch has one optimiser step.
    """

    many_ranks = True
    rollouts = True

    def __init__(self, config: RunConfig):
        super().__init__(config)
        self.grpo = cast(StepGrpoConfig, config.stage).grpo
        self.reference: QwenVL | None = None
        """A copy of the start, if all weights are trained; with an adapter the reference is the model without it. Never
        saved, because `setup` gets the start on every resume too."""

    def setup(self, model: OmniBridge) -> None:
        if self.grpo.beta and not self.config.stage.lora_rank:
            self.reference = deepcopy(model.backbone).requires_grad_(False)

    def trainable(self, name: str) -> bool:
        return name.startswith("model.backbone.")

    def batch(self, model: OmniBridge, step: int) -> Rollouts:
        seed, rng = self.config.seed, numpy_rng(self.config.seed, "problems", step)
        problems = [self.worlds.sample_problem(rng, number) for number in self.config.samples(step)]
        return roll_out(model.backbone, problems, self.grpo, seed, step)

    def loss(self, model: OmniBridge, batch: Rollouts, rng: torch.Generator, heads: nn.Module | None) -> LossOutputs:
        reference = self._reference_log_probs(model, batch) if self.grpo.beta else None
        log_probs = reply_log_probs(model.backbone, batch.prompts, batch.replies, self.grpo.temperature)
        loss = grpo_loss(
            log_probs,
            batch.replies.log_probs,
            group_advantages(batch.rewards).flatten(),
            batch.replies.mask,
            self.grpo.clip,
            reference,
            self.grpo.beta,
        )
        parts = {"policy": float(loss.total.detach()), **batch.metrics}
        return LossOutputs(loss.total, parts | {"KL": float(loss.divergence), "clipped": float(loss.clipped)})

    @torch.no_grad()
    def _reference_log_probs(self, model: OmniBridge, batch: Rollouts) -> Tensor:
        backbone = self.reference or model.backbone
        with without_adapter(model.backbone):
            return reply_log_probs(backbone, batch.prompts, batch.replies, self.grpo.temperature)
