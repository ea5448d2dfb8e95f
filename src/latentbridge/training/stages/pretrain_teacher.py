"""Pretraining of the teacher `scene`: the stand-in for what released CLIP and SigLIP weights bring."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentbridge.config import RunConfig
from latentbridge.data.contrasts import Contrast, Contrasts
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
"""Share of batches with free texts; the others have the canonical ones, which is what the teacher will be asked."""
_GROWTH = 8
"""How many things scenes would have at the end of the run, if they went on growing."""
_HELD_OUT_PAIRS = 128


@dataclass
class ContrastBatch:
    """b pairs of a picture and a text that is true of it."""

    pictures: list[Picture]
    texts: list[str]
    ids: Tensor
    """int64 [b]; equal where the text of one is as true of the other."""


class PretrainTeacher(Stage):
    """Contrast of all pictures and texts of a batch, many of which differ in one thing only (`data/contrasts.py`).

    CLIP's loss, not SigLIP's sigmoid, for it knows what to do with texts that are true of two pictures; what is loaded and
    saved is the same but for a bias that stays 0. All texts of a batch are canonical or all are free, so that one that leaves things open
    never counts as wrong for a picture of which it is true. Scenes grow over the first part of the run: one thing, then
    two, three and four, for which word belongs to which is learned soonest where there is one of each.
    """

    trains = ("scene",)
    many_ranks = True

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.contrasts = Contrasts(config.stage)

    def trainable(self, name: str) -> bool:
        return name != "model.model.logit_bias"

    def batch(self, model: DualEncoder, step: int) -> ContrastBatch:
        rng = numpy_rng(self.config.seed, "pretrain teacher", step)
        free = bool(rng.random() < _FREE_SHARE)
        most = self.phase(step)
        pairs: list[Contrast] = []
        while len(pairs) < self.config.batch_size:
            pairs += self.contrasts.family(rng, free, most)
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
        """The most things that a scene of this step has."""
        return min(MAX_THINGS, 1 + _GROWTH * step // self.config.steps)

    @torch.no_grad()
    def check(self, model: DualEncoder, step: int) -> dict[str, float]:
        """Shares of validation scenes' pictures and texts that find each other among all."""
        scenes = distinct_scenes("val", numpy_rng(0, "held-out pairs"), _HELD_OUT_PAIRS)
        cosines = (
            model.embed_pictures([render(scene) for scene in scenes])
            @ model.embed_texts([describe(s) for s in scenes]).T
        )
        own = torch.arange(len(scenes), device=cosines.device)
        return {
            name: round((found.argmax(dim=-1) == own).float().mean().item(), 4)
            for name, found in (("image to text", cosines), ("text to image", cosines.T))
        }
