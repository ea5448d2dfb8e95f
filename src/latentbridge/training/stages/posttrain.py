"""Post-training of a unified backbone: native losses that keep each skill, and the terms of a method beside them."""

from __future__ import annotations

import torch

from latentbridge.config import RunConfig
from latentbridge.data.shapes.language import describe
from latentbridge.data.shapes.render import render
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.errors import UserError
from latentbridge.models.checkpoint import Network
from latentbridge.rng import numpy_rng
from latentbridge.training.objectives.collapse import CollapseGuard, measure_collapse
from latentbridge.training.stages.native import Native

_HELD_OUT_PAIRS = 32


class PostTrain(Native):
    """What all methods share: native losses and held-out checks, so that they differ by their terms alone.

    The pairs form a finite set, so that a teacher embeds them once.
    """

    def __init__(self, config: RunConfig) -> None:
        if config.bf16:
            raise UserError(
                "Post-training reads pictures as viewers get them, in steps that bfloat16 cannot tell apart; set bf16=false."
            )
        super().__init__(config)
        self.guard = CollapseGuard(self.settings.guard_warmup_steps)

    @torch.no_grad()
    def check(self, model: Network, step: int) -> dict[str, float]:
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
