"""Pretraining of the teacher `scene`, in place of released CLIP and SigLIP weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from latentbridge.config import PretrainTeacherConfig, RunConfig
from latentbridge.data.contrastive import ContrastivePair, ContrastiveSampler
from latentbridge.data.shapes.language import describe
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import MAX_THINGS, distinct_scenes
from latentbridge.models.dual_encoder import DualEncoder
from latentbridge.ranks import local_rows
from latentbridge.rng import numpy_rng
from latentbridge.training.objectives.losses import retrieval_loss
from latentbridge.training.stage import Stage
from latentbridge.types import LossOutputs, Picture

_FREE_SHARE = 0.2
"""Share of batches with free texts; the others have the canonical ones, which LatentUMM asks the teacher about."""
_GROWTH = 8
"""Number of things that scenes would have at the end of the run, if they went on growing."""
_HELD_OUT_PAIRS = 128


@dataclass
class ContrastBatch:
    """b pairs of a picture and a matching text."""

    pictures: list[Picture]
    texts: list[str]
    ids: Tensor
    """int64 [b]; equal if each text matches the other picture too."""


class PretrainTeacher(Stage):
    """InfoNCE over the pictures and texts of a batch, with hard negatives that differ in one thing (`data/contrastive.py`).

    CLIP's loss, because SigLIP's sigmoid has no target for a text that matches two pictures; SigLIP's bias stays 0. The
    texts of a batch are all canonical or all free, so that a less specific one never counts as wrong for a picture it
    matches. Curriculum: scenes have one thing at first, then up to two, three and four, because binding of words to
    things is learned fastest on single things.
    """

    trains = ("scene",)
    many_ranks = True

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.contrasts = ContrastiveSampler(cast(PretrainTeacherConfig, config.stage))

    def trainable(self, name: str) -> bool:
        return name != "model.model.logit_bias"

    def batch(self, model: DualEncoder, step: int) -> ContrastBatch:
        rng = numpy_rng(self.config.seed, "pretrain teacher", step)
        free = bool(rng.random() < _FREE_SHARE)
        max_things = self.phase(step)
        pairs: list[ContrastivePair] = []
        while len(pairs) < self.config.batch_size:
            pairs += self.contrasts.sample_group(rng, free, max_things)
        pictures, texts, ids = zip(*local_rows(pairs[: self.config.batch_size]), strict=True)
        return ContrastBatch(list(pictures), list(texts), torch.tensor(ids))

    def loss(
        self, model: DualEncoder, batch: ContrastBatch, rng: torch.Generator, heads: nn.Module | None
    ) -> LossOutputs:
        pictures, texts = model.embed_pictures(batch.pictures), model.embed_texts(batch.texts)
        with torch.autocast(pictures.device.type, enabled=False):  # bfloat16 cannot tell near misses' cosines apart
            contrast = retrieval_loss(
                pictures, texts, batch.ids, model.model.logit_scale.exp(), text_to_text_weight=0.0
            )
        return LossOutputs(contrast.total, {"contrast": contrast.total.item()})

    def phase(self, step: int) -> int:
        """Return the largest number of things in a scene of this step."""
        return min(MAX_THINGS, 1 + _GROWTH * step // self.config.steps)

    @torch.no_grad()
    def check(self, model: DualEncoder, step: int) -> dict[str, float]:
        """Return recall at 1 between pictures and texts of validation scenes."""
        scenes = distinct_scenes("val", numpy_rng(0, "held-out pairs"), _HELD_OUT_PAIRS)
        cosines = (
            model.embed_pictures([render(scene) for scene in scenes])
            @ model.embed_texts([describe(s) for s in scenes]).T
        )
        target = torch.arange(len(scenes), device=cosines.device)
        return {
            name: round((scores.argmax(dim=-1) == target).float().mean().item(), 4)
            for name, scores in (("image to text", cosines), ("text to image", cosines.T))
        }
