"""Base of the stages that train any unified backbone: described pictures, conversations, and the backbone's own losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentbridge.config import NativeStageConfig, RunConfig
from latentbridge.data.worlds import stable_hash
from latentbridge.models.backbones.loading import UNIFIED, prepare_for_training
from latentbridge.models.checkpoint import Network
from latentbridge.models.trainable import TrainableModel
from latentbridge.ranks import local_rows
from latentbridge.rng import numpy_rng
from latentbridge.training.items import ItemOrder
from latentbridge.training.parallel import local_conversations
from latentbridge.training.stage import DataStage
from latentbridge.types import Conversation, LossOutputs, Picture


@dataclass
class PairBatch:
    """One rank's b pairs of a picture and its full description, and b conversations about other things."""

    pictures: list[Picture]
    prompts: list[str]
    seeds: list[int]
    """The seed of each pair's drawings at this step."""
    ids: Tensor
    """int64 [b]; equal for equal descriptions."""
    conversations: list[Conversation]


class Terms(NamedTuple):
    """Loss terms by name, and their unweighted values for the log."""

    weighted: dict[str, Tensor]
    parts: dict[str, float]

    def outputs(self) -> LossOutputs:
        """Return the sum of the weighted terms as a step's loss."""
        return LossOutputs(torch.stack(list(self.weighted.values())).sum(), self.parts, dict(self.weighted))


def weigh(**terms: tuple[float, Tensor]) -> Terms:
    """Return terms from (weight, value) pairs."""
    return Terms(
        {name: weight * value for name, (weight, value) in terms.items()},
        {name: value.item() for name, (_, value) in terms.items()},
    )


class BackboneStage(DataStage):
    """Base of stages that train a `TrainableModel` on conversations; every sample is a function of (seed, step)."""

    trains = UNIFIED
    many_ranks = True
    settings: NativeStageConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    by_block = False
    """Round trips call blocks many times, some without gradient and some within another gradient."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.backbone: TrainableModel
        self.trained: frozenset[str] = frozenset()
        """Names of the backbone's trainable parameters in `Objective`."""

    def bind(self, model: Network) -> None:
        """Take the model as a backbone and list its trainable parameters; computes nothing, so it works on the meta device."""
        self.backbone = self.as_backbone(model)
        free = {id(p) for name, p in self.backbone.named_parameters() if self.backbone.trainable(name)}
        self.trained = frozenset(f"model.{name}" for name, p in model.named_parameters() if id(p) in free)

    def as_backbone(self, model: Network) -> TrainableModel:
        return prepare_for_training(model)

    def setup(self, model: Network) -> None:
        self.bind(model)

    def trainable(self, name: str) -> bool:
        return name.startswith("heads.") or name in self.trained


class NativeStage(BackboneStage):
    """Base of stages over a finite set of described pictures, and conversations that are new at every step.

    Runs of one seed get the same data in the same order, whatever terms they add to the native losses.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.order = ItemOrder(config, "post-training order")

    def item(self, index: int) -> tuple[Picture, str]:
        """Return a picture of the finite set and its description."""
        rng = numpy_rng(self.config.seed, "post-training item", index)
        return self.worlds.world_at(rng, index).sample_captioned_picture(rng)

    def items(self) -> list[tuple[Picture, str]]:
        """Return the whole finite set."""
        return [self.item(index) for index in range(self.order.count)]

    def batch(self, model: Network, step: int) -> PairBatch:
        items = [self.item(index) for index in local_rows(self.order.indices(step))]
        rng = numpy_rng(self.config.seed, "post-training step", step)
        prompts = [prompt for _, prompt in items]
        return PairBatch(
            pictures=[picture for picture, _ in items],
            prompts=prompts,
            seeds=local_rows(rng.integers(2**31, size=self.config.batch_size)).tolist(),
            ids=torch.tensor([stable_hash(prompt) for prompt in prompts]),
            conversations=local_conversations([self.conversation(rng, number) for number in self.config.samples(step)]),
        )

    def loss(self, model: Network, batch: PairBatch, rng: torch.Generator, heads: Any) -> LossOutputs:
        backbone, settings = self.backbone, self.settings
        native = weigh(
            understanding=(settings.understanding_weight, backbone.understanding_loss(batch.conversations)),
            generation=(settings.generation_weight, backbone.generation_loss(batch.prompts, batch.pictures, rng)),
        )
        added = self.terms(backbone, batch, rng, heads)
        return Terms(native.weighted | added.weighted, native.parts | added.parts).outputs()

    def terms(self, backbone: TrainableModel, batch: PairBatch, rng: torch.Generator, heads: Any) -> Terms:
        """Return what a method adds to the native losses."""
        return weigh()
