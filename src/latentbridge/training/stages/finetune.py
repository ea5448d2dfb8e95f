"""Fine-tuning of the shipped model on a user's own questions, captions and edits, with the library's worlds replayed."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from latentbridge import prompts
from latentbridge.config import FinetuneConfig, RunConfig
from latentbridge.data.worlds import AlignItem
from latentbridge.devices import CPU
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.models.qwen_vl.batch import TokenBatch
from latentbridge.rng import numpy_rng
from latentbridge.training.objectives.losses import retrieval_loss
from latentbridge.training.stages.native import BackboneStage, weigh
from latentbridge.types import LossOutputs

CONVERSATIONS_PER_PAIR = 4
"""Pairs cost three passes each, and replies learn more slowly than retrieval and generation."""


@dataclass
class FinetuneBatch:
    """Conversations, and a quarter as many pairs of a picture and its text."""

    conversations: TokenBatch
    pairs: list[AlignItem]
    """The user's own first."""
    own_count: int
    """Number of the user's own pairs."""


class Finetune(BackboneStage):
    """Language loss on new conversations at every step, with learning without forgetting (Li and Hoiem, arXiv 1606.09282).

    The conversations are the user's and the library's. `distillation_weight` holds what generation and retrieval read from
    the backbone to a frozen copy of the start, on the library's pairs. Bridge, decoder and retrieval head are trained only
    if the user's data have texts or described edits: the decoder on both conditions, because edits are drawn from text.
    """

    trains = ("omnibridge",)
    many_ranks = False
    settings: FinetuneConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    start: OmniBridge

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.trains_bridge = self.worlds.has_own_pairs

    def setup(self, model: OmniBridge) -> None:
        """Keep a frozen copy of the start, which is the model's state here on every resume too."""
        self.start = deepcopy(model).requires_grad_(False)
        super().setup(model)

    def trainable(self, name: str) -> bool:
        if not self.trains_bridge:
            return name.startswith("model.backbone.")
        return super().trainable(name) or name.startswith("model.retrieval.")

    def batch(self, model: OmniBridge, step: int) -> FinetuneBatch:
        rng = numpy_rng(self.config.seed, "finetune", step)
        numbers = self.config.samples(step)
        conversations = [self.conversation(rng, number) for number in numbers]
        pairs = [self.worlds.sample_pair(rng, number) for number in numbers[::CONVERSATIONS_PER_PAIR]]
        own = [item for item, is_own in pairs if is_own]
        replayed = [item for item, is_own in pairs if not is_own]
        tokens = model.backbone.tokenize(conversations, device=CPU)
        return FinetuneBatch(model.backbone.pack(tokens) if self.settings.packed else tokens, own + replayed, len(own))

    def loss(self, model: OmniBridge, batch: FinetuneBatch, rng: torch.Generator, heads: Any) -> LossOutputs:
        settings = self.settings
        language = model.backbone.language_loss(batch.conversations)
        terms = {"understanding": (settings.understanding_weight, language)}
        if replayed := batch.pairs[batch.own_count :]:
            terms["drift"] = (settings.distillation_weight, self._drift(model, replayed))
        if batch.own_count:
            terms["generation"] = (settings.generation_weight, self._generation_loss(batch.pairs, rng))
            terms["retrieval"] = (settings.retrieval_weight, _retrieval_loss(model, batch.pairs))
        return weigh(**terms).outputs()

    def _drift(self, model: OmniBridge, pairs: Sequence[AlignItem]) -> Tensor:
        """Return the squared distance of the pairs' conditions and embeddings from the start's, relative to their squared norm."""
        with torch.no_grad():
            before = _features(self.start, pairs)
        drifts = [
            (now - then).square().sum(-1) / then.square().sum(-1)
            for now, then in zip(_features(model, pairs), before, strict=True)
        ]
        return torch.stack(drifts).mean()

    def _generation_loss(self, pairs: Sequence[AlignItem], rng: torch.Generator) -> Tensor:
        backbone, targets = cast(OmniBridge, self.backbone), [pair.target for pair in pairs]
        losses = (backbone.generation_loss, backbone.text_generation_loss)
        return torch.stack([loss(_descriptions(pairs), targets, rng) for loss in losses]).mean()


def _features(model: OmniBridge, pairs: Sequence[AlignItem]) -> list[Tensor]:
    """Return the conditions pairs are drawn from [b n * d], and the embeddings of pictures and captions [b e]."""
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
    return [prompts.unwrap_description(pair.conversation.turns[-1][1]) for pair in pairs]
