"""Step-GRPO: the backbone is rewarded for right answers, for the steps on the way and for the form of its reasoning."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from latentbridge.config import RunConfig
from latentbridge.models.adapters import without_adapter
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.modeling_qwen_vl import QwenVL
from latentbridge.models.qwen_vl.sampling import reply_log_probs
from latentbridge.rng import numpy_rng
from latentbridge.training.objectives.grpo import group_advantages, grpo_loss
from latentbridge.training.rollouts import Rollouts, roll_out
from latentbridge.training.stages.sft import Sft
from latentbridge.types import LossOutputs


class StepGrpo(Sft):
    """R1-VL's StepGRPO (arXiv 2503.12937) on problems of `shapes` and of a manifest; `grpo` says how, and `lora_rank` what moves.

    `batch_size` counts problems, each with a group of replies. Replies are sampled where other stages draw their data, so
    a resumed run samples them again from the same weights, and a batch is used once.
    """

    rollouts = True
    """`batch` asks the model, so it can neither be drawn ahead nor from a part of the weights."""

    def __init__(self, config: RunConfig):
        super().__init__(config)
        self.settings = config.stage.grpo
        self.reference: QwenVL | None = None
        """The start, where all weights move; adapters are switched off instead. No part of the objective, so never saved:
        `attach` meets the start on every resume too."""

    def attach(self, model: OmniBridge) -> nn.Module | None:
        if self.settings.beta and not self.config.stage.lora_rank:
            self.reference = deepcopy(model.backbone).requires_grad_(False)
        return super().attach(model)

    def batch(self, model: OmniBridge, step: int) -> Rollouts:
        seed, rng = self.config.seed, numpy_rng(self.config.seed, "problems", step)
        problems = [self.worlds.problem(rng, number) for number in self.config.samples(step)]
        return roll_out(model.backbone, problems, self.settings, seed, step)

    def loss(self, model: OmniBridge, batch: Rollouts, rng: torch.Generator, heads: nn.Module | None) -> LossOutputs:
        reference = self._reference_log_probs(model, batch) if self.settings.beta else None
        log_probs = reply_log_probs(model.backbone, batch.prompts, batch.replies, self.settings.temperature)
        found = grpo_loss(
            log_probs,
            batch.replies.log_probs,
            group_advantages(batch.rewards).flatten(),
            batch.replies.mask,
            self.settings.clip,
            reference,
            self.settings.beta,
        )
        told = {"KL": float(found.divergence), "clipped": float(found.clipped)}
        return LossOutputs(found.total, {"policy": float(found.total.detach()), **batch.told, **told})

    @torch.no_grad()
    def _reference_log_probs(self, model: OmniBridge, batch: Rollouts) -> Tensor:
        with without_adapter(model.backbone):
            return reply_log_probs(
                self.reference or model.backbone, batch.prompts, batch.replies, self.settings.temperature
            )
