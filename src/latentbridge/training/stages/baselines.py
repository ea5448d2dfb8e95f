"""What LatentUMM is compared with (spec LatentUMM section 3): the same base, and another term or other conversations."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from latentbridge.data.shapes.scenes import scenes
from latentbridge.data.shapes.tasks import plan
from latentbridge.models.trainable import TrainableModel
from latentbridge.training.objectives.self_play import self_play_loss
from latentbridge.training.stages.native import PairBatch, Terms, weigh
from latentbridge.training.stages.posttrain import PostTrain
from latentbridge.types import Conversation

_PLANNED_SHARE = 0.5


class PosttrainSft(PostTrain):
    """The native losses alone: what the data by itself would have done."""


class Reca(PostTrain):
    """Reconstruction alignment: pictures drawn from the model's own reading of them; their descriptions take no part in it.

    The release trains on this term alone, with everything that understands frozen. Here it stands beside the native
    losses, as every method's terms do, and understanding is held still in this term only.
    """

    def terms(self, backbone: TrainableModel, batch: PairBatch, rng: torch.Generator, heads: Any) -> Terms:
        loss = backbone.reconstruction_loss(batch.pictures, rng)
        return weigh(reconstruction=(self.settings.reconstruction, loss))


class UniGame(PostTrain):
    """Adversarial self-play: latents moved a little so that their drawings are misread, and training against it.

    The release learns a network that perturbs visual tokens until answers fail, keeps the worst pictures in a buffer, and
    trains on them. Here the perturbation is found anew for each pair by one step of gradient, on the latent drawn from,
    and failing means that the drawing is read as something else than the latent; that needs no judge and no buffer.
    """

    def terms(self, backbone: TrainableModel, batch: PairBatch, rng: torch.Generator, heads: Any) -> Terms:
        latents = backbone.gen_latent(batch.prompts, batch.seeds)
        loss = self_play_loss(latents, partial(backbone.roundtrip, seeds=batch.seeds), self.settings.perturbation)
        return weigh(self_play=(self.settings.self_play, loss))


class UniCot(PostTrain):
    """Reasoning before drawing: half of the conversations are prompts of `shapes` thought through step by step.

    As in the release the loss is the native one and the data make the difference; here every step is exact.
    """

    def converse(self, rng: np.random.Generator, number: int) -> Conversation:
        if rng.random() < _PLANNED_SHARE:
            return plan(next(scenes("train", rng)), rng)
        return super().converse(rng, number)
