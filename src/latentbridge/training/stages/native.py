"""What every stage of a unified backbone shares: pairs and conversations, and the backbone's own losses over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentbridge.config import RunConfig
from latentbridge.data.worlds import Mixture, identity_of
from latentbridge.models.backbones.loading import UNIFIED, prepare_for_training
from latentbridge.models.checkpoint import Network
from latentbridge.models.trainable import TrainableModel
from latentbridge.ranks import local_rows
from latentbridge.rng import numpy_rng
from latentbridge.training.items import ItemOrder
from latentbridge.training.parallel import local_conversations
from latentbridge.training.stage import Stage
from latentbridge.types import Conversation, LossOutputs, Picture


@dataclass
class PairBatch:
    """b pairs of a picture and its full description, and as many conversations about other things, of one rank."""

    pictures: list[Picture]
    prompts: list[str]
    seeds: list[int]
    """One for each pair: the chance of its drawings at this step."""
    ids: Tensor
    """int64 [b]; equal where the descriptions are."""
    talks: list[Conversation]


class Terms(NamedTuple):
    """What is added to a loss, by name, and what to log of it."""

    weighted: dict[str, Tensor]
    parts: dict[str, float]


def weigh(**terms: tuple[float, Tensor]) -> Terms:
    """Terms from (weight, value) pairs; the values are logged as they are."""
    return Terms(
        {name: weight * value for name, (weight, value) in terms.items()},
        {name: value.item() for name, (_, value) in terms.items()},
    )


class Native(Stage):
    """The native losses of a backbone over a finite set of drawn pairs and over conversations that are new at every step.

    Everything is decided by (seed, step), so runs of one seed meet the same data in the same order whatever else they
    minimise. Pairs come from the worlds of the stage config.
    """

    trains = UNIFIED
    many_ranks = True
    by_block = False
    """Round trips call blocks many times, some without gradient and some within another gradient."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.settings = config.stage.posttrain
        self.worlds = Mixture(config.stage, config.seed)
        self.order = ItemOrder(config, "post-training order")
        self.backbone: TrainableModel
        self.moving: frozenset[str] = frozenset()
        """What the backbone lets move, as `Objective` names it."""

    def converse(self, rng: np.random.Generator, number: int) -> Conversation:
        """The conversation to understand that comes after `number` others."""
        return self.worlds.pick(rng, number).converse(rng)

    def attach(self, model: Network) -> torch.nn.Module | None:
        self.choose(model)
        return None

    def choose(self, model: Network) -> None:
        """Take the model as a backbone, and find what of it moves; nothing is computed, so the meta device will do."""
        self.backbone = prepare_for_training(model, self.settings.roundtrip_steps, self.settings.through_pixels)
        free = {id(p) for name, p in self.backbone.named_parameters() if self.backbone.trainable(name)}
        self.moving = frozenset(f"model.{name}" for name, p in model.named_parameters() if id(p) in free)

    def trainable(self, name: str) -> bool:
        return name.startswith("heads.") or name in self.moving

    def item(self, index: int) -> tuple[Picture, str]:
        """A picture of the finite set and its description."""
        rng = numpy_rng(self.config.seed, "post-training item", index)
        return self.worlds.pick(rng, index).depict(rng)

    def items(self) -> list[tuple[Picture, str]]:
        """The whole finite set."""
        return [self.item(index) for index in range(self.config.stage.items)]

    def batch(self, model: Network, step: int) -> PairBatch:
        items = [self.item(index) for index in local_rows(self.order.indices(step))]
        rng = numpy_rng(self.config.seed, "post-training step", step)
        prompts = [prompt for _, prompt in items]
        return PairBatch(
            pictures=[picture for picture, _ in items],
            prompts=prompts,
            seeds=local_rows(rng.integers(2**31, size=self.config.batch_size)).tolist(),
            ids=torch.tensor([identity_of(prompt) for prompt in prompts]),
            talks=local_conversations([self.converse(rng, number) for number in self.config.samples(step)]),
        )

    def loss(self, model: Network, batch: PairBatch, rng: torch.Generator, heads: Any) -> LossOutputs:
        backbone, settings = self.backbone, self.settings
        native = weigh(
            understanding=(settings.understanding, backbone.understanding_loss(batch.talks)),
            generation=(settings.generation, backbone.generation_loss(batch.prompts, batch.pictures, rng)),
        )
        own = self.terms(backbone, batch, rng, heads)
        weighted = native.weighted | own.weighted
        return LossOutputs(torch.stack(list(weighted.values())).sum(), native.parts | own.parts, dict(weighted))

    def terms(self, backbone: TrainableModel, batch: PairBatch, rng: torch.Generator, heads: Any) -> Terms:
        """What a method adds to the native losses."""
        return weigh()
