"""Post-training of a unified backbone: the base of all methods, and the baselines of LatentUMM (its spec, section 3)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from latentbridge.config import PostTrainConfig, RecaConfig, RunConfig, UniGameConfig
from latentbridge.data.shapes.language import describe
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes, scenes
from latentbridge.data.shapes.tasks import scene_drawing_plan
from latentbridge.errors import UserError
from latentbridge.models.backbones.loading import prepare_for_training
from latentbridge.models.checkpoint import Network
from latentbridge.models.trainable import TrainableModel
from latentbridge.rng import numpy_rng
from latentbridge.training.objectives.collapse import CollapseGuard, measure_collapse
from latentbridge.training.objectives.self_play import self_play_loss
from latentbridge.training.stages.native import NativeStage, PairBatch, Terms, weigh
from latentbridge.types import Conversation

_HELD_OUT_PAIRS = 32
_PLANNED_SHARE = 0.5


class PostTrain(NativeStage):
    """Base of the methods: native losses, which keep each skill, and held-out checks, so that methods differ by their terms alone."""

    settings: PostTrainConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: RunConfig) -> None:
        if config.bf16:
            raise UserError(
                "Post-training reads pictures as viewers get them, in steps that bfloat16 cannot tell apart; set bf16=false."
            )
        super().__init__(config)
        self.guard = CollapseGuard(self.settings.guard_warmup_steps)

    def as_backbone(self, model: Network) -> TrainableModel:
        return prepare_for_training(model, self.settings.roundtrip_steps, self.settings.through_pixels)

    @torch.no_grad()
    def check(self, model: Network, step: int) -> dict[str, float]:
        """Return distances between the latents of different validation scenes; raise UserError if they have collapsed.

        They are the backbone's own latents, because collapsed training heads cost the model nothing.
        """
        held_out = distinct_scenes("val", numpy_rng(0, "held-out pairs"), _HELD_OUT_PAIRS)
        prompts, pictures = [describe(scene) for scene in held_out], [render(scene) for scene in held_out]
        seeds = list(range(_HELD_OUT_PAIRS))
        backbone = self.backbone
        z = backbone.gen_latent(prompts, seeds)
        text, image = backbone.und_latent(prompts), backbone.und_latent(pictures)
        measures = measure_collapse(text, image, backbone.roundtrip(z, seeds), z)
        self.guard.check(step, measures)
        return measures._asdict()


class PostTrainSft(PostTrain):
    """The native losses alone: the control for what the data by itself does."""


class Reca(PostTrain):
    """Reconstruction alignment (RecA): the image loss of pictures conditioned on the model's own understanding of them.

    The release trains on this term alone, with everything that understands frozen. Here it stands beside the native
    losses, as every method's terms do, and understanding is frozen in this term only.
    """

    settings: RecaConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def terms(self, backbone: TrainableModel, batch: PairBatch, rng: torch.Generator, heads: Any) -> Terms:
        loss = backbone.reconstruction_loss(batch.pictures, rng)
        return weigh(reconstruction=(self.settings.reconstruction_weight, loss))


class UniGame(PostTrain):
    """Adversarial self-play (UniGame): latents perturbed until their drawings are misread, and training against it.

    The release learns a network that perturbs visual tokens until answers fail, keeps the worst pictures in a buffer, and
    trains on them. Here the perturbation is one gradient step for each pair, on the latent drawn from, and failure is
    distance between the latent and what the drawing is read as; that needs no judge and no buffer.
    """

    settings: UniGameConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def terms(self, backbone: TrainableModel, batch: PairBatch, rng: torch.Generator, heads: Any) -> Terms:
        latents = backbone.gen_latent(batch.prompts, batch.seeds)
        loss = self_play_loss(latents, partial(backbone.roundtrip, seeds=batch.seeds), self.settings.perturbation)
        return weigh(self_play=(self.settings.self_play_weight, loss))


class UniCot(PostTrain):
    """Chain of thought before drawing (Uni-CoT): half of the conversations plan a prompt of `shapes` step by step.

    As in the release the loss is the native one and the data make the difference; here every step is exact.
    """

    def conversation(self, rng: np.random.Generator, number: int) -> Conversation:
        if rng.random() < _PLANNED_SHARE:
            return scene_drawing_plan(next(scenes("train", rng)), rng)
        return super().conversation(rng, number)
