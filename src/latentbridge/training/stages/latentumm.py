"""LatentUMM as a stage: its objective beside the native losses, through the backbone's own round trip."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from latentbridge.config import RunConfig
from latentbridge.models.backbones.contract import UnifiedBackbone
from latentbridge.models.checkpoint import Network
from latentbridge.models.latent_heads import LatentHeads
from latentbridge.models.teachers import load_teacher
from latentbridge.prompts import CAPTION_REQUEST
from latentbridge.ranks import all_reduce_sum, global_mean_weight
from latentbridge.training.objectives.latentumm import LatentPairs, centre, latentumm_loss, rollout_noise
from latentbridge.training.objectives.teacher_embeddings import TeacherEmbeddings
from latentbridge.training.stages.native import PairBatch, Terms
from latentbridge.training.stages.posttrain import PostTrain
from latentbridge.types import Conversation


class LatentUMM(PostTrain):
    """Dual latent alignment (arXiv 2605.17766); see `training/objectives/latentumm.py` for the terms.

    "anchored": captions' and pictures' understanding latents are aligned, latents to draw from make real round trips and
    their drawings are told in words, and a linear head, kept for training only, maps understanding latents to the teacher's centred embeddings. "reference" is
    what the release does: its heads encode and decode a pooled state in place of drawing and reading, and the teacher's
    embeddings stand as they are. One thing differs there: the release pools a picture's state while drawing it under its
    caption, which the contract does not ask of backbones; here it is the state of the picture seen.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.anchors: TeacherEmbeddings | None = None

    def attach(self, model: Network) -> nn.Module | None:
        super().attach(model)
        if self.settings.teacher != "none":
            self.anchors = TeacherEmbeddings(load_teacher(self.settings.teacher, self.runs), self.items())
        with torch.no_grad():
            width = self.backbone.und_latent(["a picture"]).shape[1]
        if self.settings.objective == "reference":
            return LatentHeads(width, self.anchors.space.dimension if self.anchors else width)
        return nn.Linear(width, self.anchors.space.dimension) if self.anchors else None

    def terms(self, backbone: UnifiedBackbone, batch: PairBatch, rng: torch.Generator, heads: Any) -> Terms:
        text, image = backbone.und_latent(batch.prompts), backbone.und_latent(batch.pictures)
        if self.settings.objective == "reference":
            embedded = heads.hidden_to_embed(text), heads.hidden_to_embed(image)
            targets, share = self._targets(batch, *embedded)
            pairs = LatentPairs(*embedded, text, batch.ids, targets, None, share)
            roundtrip = heads.autoencode
        else:
            targets, share = self._targets(batch, heads(text), heads(image)) if heads else ((), 1.0)
            z = backbone.gen_latent(batch.prompts, batch.seeds)
            telling = None
            if self.settings.weights.telling:
                captions = [Conversation(((CAPTION_REQUEST, prompt),)) for prompt in batch.prompts]
                telling = backbone.understanding_loss(captions, backbone.draw(z, batch.seeds))
            pairs = LatentPairs(text, image, z, batch.ids, targets, telling, share)
            roundtrip = partial(backbone.roundtrip, seeds=batch.seeds)
        noise = rollout_noise(pairs.z, self.settings.rollouts, self.settings.sigma, rng, self.settings.objective)
        loss = latentumm_loss(pairs, roundtrip, noise, self.settings.weights, objective=self.settings.objective)
        return Terms(loss.weighted, loss.parts())

    def _targets(
        self, batch: PairBatch, text: Tensor, image: Tensor
    ) -> tuple[tuple[tuple[Tensor, Tensor], ...], float]:
        """What is predicted of captions and pictures [b e] against what the teacher says, where it knows the pair, and
        what that counts beside other ranks' pairs. One that knows none of its own compares the first with nothing, at 0."""
        if self.anchors is None:
            return (), 1.0
        rows, said, seen = self.anchors.lookup(list(zip(batch.pictures, batch.prompts, strict=True)))
        if not all_reduce_sum(torch.tensor(len(rows))):
            return (), 1.0
        share = global_mean_weight(len(rows))
        if not len(rows):
            rows, said, seen = torch.tensor([0]), torch.zeros(1, text.shape[1]), torch.zeros(1, image.shape[1])
        if self.settings.objective == "anchored":
            said, seen = centre(said, self.anchors.text_mean), centre(seen, self.anchors.image_mean)
        return ((text[rows], said.to(text.device)), (image[rows], seen.to(image.device))), share
