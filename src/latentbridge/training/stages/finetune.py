"""Fine-tuning of the shipped model on a user's own questions, captions and edits, with the library's worlds replayed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from latentbridge import prompts
from latentbridge.data.worlds import AlignItem
from latentbridge.devices import CPU
from latentbridge.models.backbones.omnibridge import OmniBridge
from latentbridge.models.omnibridge.model import Model
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.rng import numpy_rng
from latentbridge.training.objectives.losses import retrieval_loss
from latentbridge.training.stages.native import Native, weigh
from latentbridge.types import LossOutputs

TALKS_PER_PAIR = 4
"""Pairs cost three passes each, and replies learn more slowly than finding and drawing."""


@dataclass
class FinetuneBatch:
    """Conversations, and a quarter as many pairs of a picture and its text."""

    talks: TokenBatch
    pairs: list[AlignItem]
    identities: Tensor
    """int64 [pairs]; equal where two pairs show the same thing."""


class Finetune(Native):
    """The native losses and finding, on data that is new at every step.

    Conversations train answers, descriptions and what an edit leads to; pairs train drawing from a description and finding
    a picture by its caption (`retrieval_weight`), or rehearse both where the user's data have no texts. Where they have, the
    decoder also learns to draw from the text encoder, which is what edits are drawn from.
    """

    trains = ("omnibridge",)
    many_ranks = False

    def trainable(self, name: str) -> bool:
        return super().trainable(name) or name.startswith("model.retrieval.")

    def batch(self, model: Model, step: int) -> FinetuneBatch:
        rng = numpy_rng(self.config.seed, "finetune", step)
        numbers = self.config.samples(step)
        talks = [self.converse(rng, number) for number in numbers]
        pairs = [self.worlds.pair(rng, number) for number in numbers[::TALKS_PER_PAIR]]
        tokens = model.backbone.tokenize(talks, device=CPU)
        tokens = model.backbone.pack(tokens) if self.config.stage.packed else tokens
        return FinetuneBatch(tokens, pairs, torch.tensor([pair.identity for pair in pairs]))

    def loss(self, model: Model, batch: FinetuneBatch, rng: torch.Generator, heads: Any) -> LossOutputs:
        backbone, settings, pairs = cast(OmniBridge, self.backbone), self.settings, batch.pairs
        descriptions = [prompts.undrawable(pair.drawing.turns[-1][1]) for pair in pairs]
        image = model.retrieval_vectors("image", [model.fit(pair.picture) for pair in pairs])
        text = model.retrieval_vectors("text", [pair.caption for pair in pairs])
        drawn = [pair.drawn for pair in pairs]
        generation = backbone.generation_loss(descriptions, drawn, rng)
        if self.worlds.has_own_pairs:
            generation = (generation + backbone.text_generation_loss(descriptions, drawn, rng)) / 2
        found = retrieval_loss(image, text, batch.identities, model.retrieval.logit_scale.exp())
        terms = weigh(
            understanding=(settings.understanding, model.backbone.language_loss(batch.talks)),
            generation=(settings.generation, generation),
            retrieval=(self.config.stage.retrieval_weight, found.total),
        )
        return LossOutputs(torch.stack(list(terms.weighted.values())).sum(), terms.parts, dict(terms.weighted))
