"""What a stage tells the loop, and the module whose forward is its loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from latentbridge.config import RunConfig
from latentbridge.errors import UserError
from latentbridge.models.adapters import is_adapter
from latentbridge.models.checkpoint import Network
from latentbridge.types import LossOutputs


class Stage(Protocol):
    """What to move, what to feed, what to minimise; and, where a stage needs it, what comes before, around and between."""

    trains: tuple[str, ...] = ("omnibridge",)
    """The kinds of network it can train."""
    many_ranks: bool = False
    """Whether `batch` and `loss` know of other ranks (`training/parallel.py`); one that does not runs in one process."""
    by_block: bool = True
    """Whether ranks gather weights block by block, for which each must call the same blocks equally often in `loss`; else
    they gather all at once for a step, and call what they like."""
    rollouts: bool = False
    """Whether `batch` asks the model as it has become; it then has its weights whole on every rank, and no batch is made ahead."""
    runs: Path = Path("runs")
    """Where the run and its siblings are; the loop says it."""

    def __init__(self, config: RunConfig) -> None: ...

    def prepare(self, model: Network) -> None:
        """One-time work before the first step that the weights then carry: closed-form fits, initialisations."""

    def trainable(self, name: str) -> bool:
        """Whether the parameter of that name moves."""
        ...

    def batch(self, model: Network, step: int) -> object:
        """The batch of a step, a function of (seed, step) and, with `rollouts`, of the weights."""
        ...

    def loss(self, model: Network, batch: Any, rng: torch.Generator, heads: Any) -> LossOutputs:
        """The loss; runs inside `Objective.forward`."""
        ...

    def attach(self, model: Network) -> nn.Module | None:
        """Training-only heads, at the start and on every resume, and whatever else the stage needs of the model by then."""
        return None

    def check(self, model: Network, step: int) -> dict[str, float]:
        """Measures on held-out data, for the log; raises UserError where going on would be a waste.

        Asked after every `checkpoint_every` steps and after the last, before anything is saved, so what a run leaves
        behind has passed.
        """
        return {}

    def phase(self, step: int) -> int:
        """Counts up wherever the loss may rise because the task grows harder; `training/divergence.py` asks."""
        return 0


class Objective(nn.Module):
    """Model, stage and training-only heads as one module whose forward is the loss, so that wrapping it wraps everything."""

    def __init__(self, model: Network, stage: Stage):
        super().__init__()
        self.model = model
        self.stage = stage
        self.heads = stage.attach(model)

    def forward(self, batch: object, rng: torch.Generator) -> LossOutputs:
        return self.stage.loss(self.model, batch, rng, self.heads)


def moving(parameters: Mapping[str, nn.Parameter], stage: Stage, config: RunConfig) -> dict[str, nn.Parameter]:
    """What moves of an objective: what the stage trains; with `lora_rank` the language model's adapter and heads instead.

    Raises UserError for an adapter beside weights that the stage would not train either.
    """
    trained = {name: p for name, p in parameters.items() if stage.trainable(name)}
    if not config.stage.lora_rank:
        return trained
    if not any(".base_layer." in name for name in trained):
        raise UserError(
            f"{config.stage.kind} trains no language model that an adapter could stand for; set stage.lora_rank=0."
        )
    return {name: p for name, p in trained.items() if is_adapter(name) or name.startswith("heads.")}
