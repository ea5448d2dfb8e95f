"""Samples during training: pictures and answers for fixed prompts, noise and questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentbridge.config import RunConfig
from latentbridge.data.shapes.language import describe
from latentbridge.data.shapes.scenes import distinct_scenes
from latentbridge.errors import UserError
from latentbridge.evaluation.loopback import facts_kept
from latentbridge.evaluation.pages.gallery import draw_grid
from latentbridge.evaluation.shapes import score_answers
from latentbridge.files import atomic_write, write_json
from latentbridge.rng import numpy_rng
from latentbridge.run_folder import RunFolder
from latentbridge.types import Observer

_SHOWN, _COLUMNS = 12, 6
_QUESTIONS = 3
"""Number of questions of each kind."""


def sampled_scenes() -> list[Any]:
    """Return the validation scenes whose full descriptions are drawn, in the order of the sheet."""
    return distinct_scenes("val", numpy_rng(0, "samples"), _SHOWN)


class Samples(Observer):
    """An observer that every `every` steps, and at the last, writes a sheet of drawings to `samples/` and logs two measures.

    It samples the current weights, not their EMA. A skill that the run neither has nor trains is left out.
    """

    def __init__(self, config: RunConfig, every: int):
        """Raise UserError if the run trains a part that neither answers nor draws."""
        self.config, self.every = config, every
        kind, is_bridge = config.stage.kind, config.model.kind == "omnibridge"
        learns_pictures = kind == "pretrain_decoder"
        self.answers = not (learns_pictures or kind == "align")
        self.draws = learns_pictures or not is_bridge or config.inherits("decoder.")
        self.options: dict[str, Any] = {}
        """Keyword arguments of `generate`; until an OmniBridge has a bridge, its decoder is conditioned on text."""
        if is_bridge:
            self.options = {"conditioning": "text" if learns_pictures else "query"}
        if config.model.kind == "scene" or kind in ("pretrain_squares", "pretrain_codes"):
            raise UserError(
                f"{config.name} trains a part that neither answers nor draws by itself, so there is nothing to sample; leave out --sample-every."
            )

    def on_train_begin(self, folder: Path, config: RunConfig) -> None:
        self.run = RunFolder(folder)
        if self.draws:
            write_json(self.run.prompts, [describe(scene) for scene in sampled_scenes()])

    def should_evaluate(self, step: int) -> bool:
        return step % self.every == 0 or step == self.config.steps

    @torch.no_grad()
    def on_evaluate(self, model: Any, step: int) -> dict[str, float]:
        measures: dict[str, float] = {}
        if self.draws:
            scenes = sampled_scenes()
            drawn = model.draw_descriptions([describe(scene) for scene in scenes], list(range(_SHOWN)), **self.options)
            kept = [facts_kept(picture, scene) for picture, scene in zip(drawn, scenes, strict=True)]
            measures["held-out facts drawn"] = round(float(np.mean(kept)), 4)
            with atomic_write(self.run.sample(step)) as temporary:
                draw_grid(drawn, _COLUMNS).save(temporary)
        if self.answers:
            score, *_ = score_answers(model.understand, "val", _QUESTIONS, seed=0)
            measures["held-out answers right"] = round(score.value, 4)
        return measures
