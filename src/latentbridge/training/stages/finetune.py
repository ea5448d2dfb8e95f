"""Fine-tuning of the shipped model on a user's own questions, captions and edits, with the library's worlds replayed."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from latentbridge import prompts
from latentbridge.config import RunConfig
from latentbridge.data.worlds import AlignItem
from latentbridge.devices import CPU
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
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
    """The user's own first."""
    own: int
    """How many of the pairs are the user's."""


class Finetune(Native):
    """Conversations, pairs and rehearsal, on data that is new at every step.

    Conversations of the user's and of the library's worlds train the backbone's replies. What drawing and finding read from
    the backbone is held where it was on the library's pairs (`distillation_weight`; Li and Hoiem, arXiv 1606.09282), by a
    frozen copy of the start. Nothing else moves, unless the user's data have texts or described edits: then bridge, decoder
    and retrieval head learn these too (`retrieval_weight`), the decoder from both conditions, for edits are drawn from text.
    """

    trains = ("omnibridge",)
    many_ranks = False
    start: OmniBridge

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.learns_pairs = self.worlds.has_own_pairs

    def attach(self, model: OmniBridge) -> nn.Module | None:
        """Keep a frozen copy of the start, which is what the model is here on every resume too."""
        self.start = deepcopy(model).requires_grad_(False)
        return super().attach(model)

    def trainable(self, name: str) -> bool:
        if not self.learns_pairs:
            return name.startswith("model.backbone.")
        return super().trainable(name) or name.startswith("model.retrieval.")

    def batch(self, model: OmniBridge, step: int) -> FinetuneBatch:
        rng = numpy_rng(self.config.seed, "finetune", step)
        numbers = self.config.samples(step)
        talks = [self.converse(rng, number) for number in numbers]
        found = [self.worlds.pair(rng, number) for number in numbers[::TALKS_PER_PAIR]]
        own = [item for item, is_own in found if is_own]
        pairs = own + [item for item, is_own in found if not is_own]
        tokens = model.backbone.tokenize(talks, device=CPU)
        return FinetuneBatch(model.backbone.pack(tokens) if self.config.stage.packed else tokens, pairs, len(own))

    def loss(self, model: OmniBridge, batch: FinetuneBatch, rng: torch.Generator, heads: Any) -> LossOutputs:
        stage = self.config.stage
        terms = {"understanding": (self.settings.understanding, model.backbone.language_loss(batch.talks))}
        if rehearsed := batch.pairs[batch.own :]:
            terms["drift"] = (stage.distillation_weight, self._drift(model, rehearsed))
        if batch.own:
            terms["generation"] = (self.settings.generation, self._generation_loss(batch.pairs, rng))
            terms["retrieval"] = (stage.retrieval_weight, _retrieval_loss(model, batch.pairs))
        found = weigh(**terms)
        return LossOutputs(torch.stack(list(found.weighted.values())).sum(), found.parts, dict(found.weighted))

    def _drift(self, model: OmniBridge, pairs: Sequence[AlignItem]) -> Tensor:
        """Return how far the conditions and embeddings of pairs are from the start's, as a share of their squared norm."""
        with torch.no_grad():
            before = _read(self.start, pairs)
        drifts = [
            (now - then).square().sum(-1) / then.square().sum(-1)
            for now, then in zip(_read(model, pairs), before, strict=True)
        ]
        return torch.stack(drifts).mean()

    def _generation_loss(self, pairs: Sequence[AlignItem], rng: torch.Generator) -> Tensor:
        backbone, drawn = cast(OmniBridge, self.backbone), [pair.drawn for pair in pairs]
        losses = (backbone.generation_loss, backbone.text_generation_loss)
        return torch.stack([loss(_descriptions(pairs), drawn, rng) for loss in losses]).mean()


def _read(model: OmniBridge, pairs: Sequence[AlignItem]) -> list[Tensor]:
    """Return what pairs are drawn and found by: conditions [b n * d], and embeddings of pictures and captions [b e]."""
    descriptions = _descriptions(pairs)
    return [model.description_condition(descriptions).flatten(1), *_embeddings(model, pairs)]


def _retrieval_loss(model: OmniBridge, pairs: Sequence[AlignItem]) -> Tensor:
    image, text = _embeddings(model, pairs)
    identities = torch.tensor([pair.identity for pair in pairs], device=image.device)
    return retrieval_loss(image, text, identities, model.retrieval.logit_scale.exp()).total


def _embeddings(model: OmniBridge, pairs: Sequence[AlignItem]) -> tuple[Tensor, Tensor]:
    pictures = [model.fit(pair.picture) for pair in pairs]
    return model.retrieval_vectors("image", pictures), model.retrieval_vectors("text", [pair.caption for pair in pairs])


def _descriptions(pairs: Sequence[AlignItem]) -> list[str]:
    return [prompts.undrawable(pair.drawing.turns[-1][1]) for pair in pairs]
