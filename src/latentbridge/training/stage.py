"""The interface between a training stage and the loop, and the module whose forward is the stage's loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import nn

from latentbridge.config import DataStageConfig, RunConfig
from latentbridge.data.worlds import Mixture
from latentbridge.errors import UserError
from latentbridge.models.adapters import is_adapter
from latentbridge.models.checkpoint import Network
from latentbridge.types import Conversation, LossOutputs


class Stage(Protocol):
    """A training stage: its trainable parameters, its batches and its loss."""

    trains: tuple[str, ...] = ("omnibridge",)
    """Kinds of network it can train."""
    many_ranks: bool = False
    """`batch` and `loss` handle several ranks (`training/parallel.py`); otherwise the stage runs in one process."""
    by_block: bool = True
    """Ranks gather weights block by block, so `loss` must call the same blocks equally often on each; otherwise they
    gather all weights for the whole step."""
    rollouts: bool = False
    """`batch` samples from the current model; it then has whole weights on every rank, and no batch is prefetched."""
    runs: Path = Path("runs")
    """The folder of the run and its siblings; set by the loop."""

    def __init__(self, config: RunConfig) -> None: ...

    def prepare(self, model: Network) -> None:
        """Change the weights once, before the first step: closed-form fits, initialisations."""

    def setup(self, model: Network) -> None:
        """Compute what the stage needs of the model at the start of a run and on every resume, such as frozen features."""

    def build_heads(self, model: Network) -> nn.Module | None:
        """Return the heads that exist in training only; called after `setup`."""
        return None

    def trainable(self, name: str) -> bool:
        """Return whether the parameter of that name is trained."""
        ...

    def batch(self, model: Network, step: int) -> object:
        """Return the batch of a step, a function of (seed, step) and, with `rollouts`, of the weights."""
        ...

    def loss(self, model: Network, batch: Any, rng: torch.Generator, heads: Any) -> LossOutputs:
        """Return the loss; called by `Objective.forward`."""
        ...

    def check(self, model: Network, step: int) -> dict[str, float]:
        """Return measures on held-out data, for the log; raise UserError if the run should stop.

        Called after every `checkpoint_every` steps and after the last, before anything is saved, so every saved model has
        passed.
        """
        return {}

    def phase(self, step: int) -> int:
        """Return a count that rises wherever the loss may rise because the task grows harder (`training/divergence.py`)."""
        return 0


class DataStage(Stage):
    """Base of stages that are fed from the sources of their settings."""

    settings: DataStageConfig

    def __init__(self, config: RunConfig) -> None:
        self.config, self.settings = config, cast(Any, config.stage)
        self.worlds = Mixture(self.settings, config.seed, getattr(self.settings, "tasks", None))

    def conversation(self, rng: np.random.Generator, number: int) -> Conversation:
        """Return the conversation that comes after `number` others."""
        return self.worlds.world_at(rng, number).sample_conversation(rng)


class Objective(nn.Module):
    """OmniBridge, stage and training-only heads as one module whose forward is the loss, so that wrapping it wraps everything."""

    def __init__(self, model: Network, stage: Stage):
        """The stage has been set up with the model."""
        super().__init__()
        self.model = model
        self.stage = stage
        self.heads = stage.build_heads(model)

    def forward(self, batch: object, rng: torch.Generator) -> LossOutputs:
        return self.stage.loss(self.model, batch, rng, self.heads)


def trainable_parameters(
    parameters: Mapping[str, nn.Parameter], stage: Stage, config: RunConfig
) -> dict[str, nn.Parameter]:
    """Return an objective's trainable parameters: the stage's; with `lora_rank` the language model's adapter and heads.

    Raise UserError for an adapter in a stage that does not train the language model.
    """
    trained = {name: p for name, p in parameters.items() if stage.trainable(name)}
    if not config.stage.lora_rank:
        return trained
    if not any(".base_layer." in name for name in trained):
        raise UserError(
            f"{config.stage.kind} trains no language model that an adapter could stand for; set stage.lora_rank=0."
        )
    return {name: p for name, p in trained.items() if is_adapter(name) or name.startswith("heads.")}
