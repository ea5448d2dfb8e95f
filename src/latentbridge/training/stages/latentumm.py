"""LatentUMM as a stage: its objective beside the native losses, through the backbone's own round trip."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from latentbridge.config import LatentUMMConfig
from latentbridge.models.checkpoint import Network
from latentbridge.models.latent_heads import LatentHeads
from latentbridge.models.teachers import load_teacher
from latentbridge.models.trainable import TrainableModel
from latentbridge.prompts import CAPTION_REQUEST
from latentbridge.ranks import all_reduce_sum, global_mean_weight
from latentbridge.training.objectives.latentumm import LatentPairs, centre, latentumm_loss, rollout_noise
from latentbridge.training.objectives.teacher_embeddings import TeacherEmbeddings
from latentbridge.training.stages.native import PairBatch, Terms
from latentbridge.training.stages.posttrain import PostTrain
from latentbridge.types import Conversation


class LatentUMM(PostTrain):
    """Dual latent alignment (arXiv 2605.17766); `training/objectives/latentumm.py` has the terms.

    "anchored": understanding latents of captions and pictures are aligned; generation latents make real round trips, and
    the captions of their drawings have a language loss (`cycle`). A linear head, for training only, maps understanding
    latents to the teacher's centred embeddings.
    "reference" is the release's objective: its heads encode and decode a pooled state in place of drawing and reading, and
    the teacher's embeddings are not centred. One thing differs: the release pools a picture's state while drawing it
    under its caption, which the contract does not ask of backbones; here it is the state of the picture read.
    """

    settings: LatentUMMConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    latent_size: int
    anchors: TeacherEmbeddings | None = None

    def setup(self, model: Network) -> None:
        super().setup(model)
        if self.settings.teacher != "none":
            self.anchors = TeacherEmbeddings(load_teacher(self.settings.teacher, self.runs), self.items())
        with torch.no_grad():
            self.latent_size = self.backbone.und_latent(["a picture"]).shape[1]

    def build_heads(self, model: Network) -> nn.Module | None:
        embedding_size = self.anchors.space.dimension if self.anchors else self.latent_size
        if self.settings.objective == "reference":
            return LatentHeads(self.latent_size, embedding_size)
        return nn.Linear(self.latent_size, embedding_size) if self.anchors else None

    def terms(self, backbone: TrainableModel, batch: PairBatch, rng: torch.Generator, heads: Any) -> Terms:
        settings = self.settings
        text, image = backbone.und_latent(batch.prompts), backbone.und_latent(batch.pictures)
        if settings.objective == "reference":
            embedded = heads.hidden_to_embed(text), heads.hidden_to_embed(image)
            targets, share = self._targets(batch, *embedded)
            pairs = LatentPairs(*embedded, text, batch.ids, targets, None, share)
            roundtrip = heads.autoencode
        else:
            targets, share = self._targets(batch, heads(text), heads(image)) if heads else ((), 1.0)
            z = backbone.gen_latent(batch.prompts, batch.seeds)
            cycle = None
            if settings.weights.cycle:
                captions = [Conversation(((CAPTION_REQUEST, prompt),)) for prompt in batch.prompts]
                cycle = backbone.understanding_loss(captions, backbone.draw(z, batch.seeds))
            pairs = LatentPairs(text, image, z, batch.ids, targets, cycle, share)
            roundtrip = partial(backbone.roundtrip, seeds=batch.seeds)
        noise = rollout_noise(pairs.z, settings.rollouts, settings.sigma, rng, settings.objective)
        loss = latentumm_loss(pairs, roundtrip, noise, settings.weights, objective=settings.objective)
        return Terms(loss.weighted, loss.parts())

    def _targets(
        self, batch: PairBatch, text: Tensor, image: Tensor
    ) -> tuple[tuple[tuple[Tensor, Tensor], ...], float]:
        """Return (prediction, teacher's embedding) of the captions and of the pictures that the teacher knows, and their
        weight among all ranks. A rank whose pairs are all unknown compares its first with zeros, at weight 0."""
        if self.anchors is None:
            return (), 1.0
        rows, text_target, image_target = self.anchors.lookup(list(zip(batch.pictures, batch.prompts, strict=True)))
        if not all_reduce_sum(torch.tensor(len(rows))):
            return (), 1.0
        share = global_mean_weight(len(rows))
        if not len(rows):
            rows = torch.tensor([0])
            text_target, image_target = torch.zeros(1, text.shape[1]), torch.zeros(1, image.shape[1])
        if self.settings.objective == "anchored":
            text_target = centre(text_target, self.anchors.text_mean)
            image_target = centre(image_target, self.anchors.image_mean)
        return ((text[rows], text_target.to(text.device)), (image[rows], image_target.to(image.device))), share
