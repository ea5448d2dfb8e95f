"""Post-training of a unified backbone: native losses that keep each skill, and the terms of a method beside them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentbridge.config import RunConfig
from latentbridge.data.language import describe
from latentbridge.data.render import render
from latentbridge.data.scenes import distinct_scenes
from latentbridge.data.worlds import Mixture, identity_of
from latentbridge.errors import UserError
from latentbridge.models.backbones.contract import UnifiedBackbone
from latentbridge.models.backbones.omnibridge import OmniBridge
from latentbridge.models.unified import Model
from latentbridge.rng import numpy_rng
from latentbridge.training.collapse import CollapseGuard, measure_collapse
from latentbridge.training.items import ItemOrder
from latentbridge.training.loop import Stage
from latentbridge.types import Conversation, LossOutputs, Picture

_HELD_OUT_PAIRS = 32


@dataclass
class PostBatch:
    """b pairs of a picture and its full description, and as many conversations about other things."""

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


class PostTrain(Stage):
    """What all methods share: model, data, native losses and held-out checks, so that they differ by their terms alone.

    Items are drawn from the worlds of the stage config and form a finite set, so that a teacher embeds them once;
    conversations are new at every step. Everything is decided by (seed, step), so runs of one seed meet the same data in
    the same order whatever their method. Any `UnifiedBackbone` will do; a run's `Model` becomes an `OmniBridge`.
    """

    def __init__(self, config: RunConfig) -> None:
        if config.bf16:
            raise UserError(
                "Post-training reads pictures as viewers get them, in steps that bfloat16 cannot tell apart; set bf16=false."
            )
        self.config = config
        self.settings = config.stage.posttrain
        self.worlds = Mixture(config.stage)
        self.order = ItemOrder(config, "post-training order")
        self.guard = CollapseGuard(self.settings.guard_warmup_steps)
        self.backbone: UnifiedBackbone

    @abstractmethod
    def terms(self, backbone: UnifiedBackbone, batch: PostBatch, rng: torch.Generator, heads: Any) -> Terms:
        """What the method adds to the native losses."""

    def converse(self, rng: np.random.Generator) -> Conversation:
        """A conversation to understand."""
        return self.worlds.pick(rng).converse(rng)

    def attach(self, model: Model) -> torch.nn.Module | None:
        self.backbone = OmniBridge(model, self.settings.roundtrip_steps)
        return None

    def trainable(self, name: str) -> bool:
        return name.startswith("heads.") or self.backbone.trainable(name)

    def item(self, index: int) -> tuple[Picture, str]:
        """A picture of the finite set and its description."""
        rng = numpy_rng(self.config.seed, "post-training item", index)
        return self.worlds.pick(rng).depict(rng)

    def batch(self, model: Model, step: int) -> PostBatch:
        items = [self.item(index) for index in self.order.indices(step)]
        rng = numpy_rng(self.config.seed, "post-training step", step)
        prompts = [prompt for _, prompt in items]
        return PostBatch(
            pictures=[picture for picture, _ in items],
            prompts=prompts,
            seeds=rng.integers(2**31, size=len(items)).tolist(),
            ids=torch.tensor([identity_of(prompt) for prompt in prompts]),
            talks=[self.converse(rng) for _ in items],
        )

    def loss(self, model: Model, batch: PostBatch, rng: torch.Generator, heads: Any) -> LossOutputs:
        backbone, settings = self.backbone, self.settings
        native = weigh(
            understanding=(settings.understanding, backbone.understanding_loss(batch.talks)),
            generation=(settings.generation, backbone.generation_loss(batch.prompts, batch.pictures, rng)),
        )
        own = self.terms(backbone, batch, rng, heads)
        weighted = native.weighted | own.weighted
        return LossOutputs(torch.stack(list(weighted.values())).sum(), native.parts | own.parts, dict(weighted))

    @torch.no_grad()
    def check(self, model: Model, step: int) -> dict[str, float]:
        """How far apart the latents of different scenes of the validation split are; stops a run that has collapsed.

        Measured on the backbone's own latents, for what only training heads forget costs the model nothing.
        """
        scenes = distinct_scenes("val", numpy_rng(0, "held-out pairs"), _HELD_OUT_PAIRS)
        prompts, pictures = [describe(scene) for scene in scenes], [render(scene) for scene in scenes]
        seeds = list(range(_HELD_OUT_PAIRS))
        backbone = self.backbone
        drawn_from = backbone.gen_latent(prompts, seeds)
        text, image = backbone.und_latent(prompts), backbone.und_latent(pictures)
        measures = measure_collapse(text, image, backbone.roundtrip(drawn_from, seeds), drawn_from)
        self.guard.check(step, measures)
        return measures._asdict()
