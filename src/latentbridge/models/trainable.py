"""The contract of every model for training: latents, round trip and native losses; `docs/backbones.md` shows how to add a model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentbridge.models.unified import UnifiedModel
from latentbridge.types import Conversation, Picture


class TrainableModel(UnifiedModel):
    """A unified model with the latents, round trip and native losses that post-training needs.

    All latents are float32 and carry gradients. Pictures may have any size. Row j of a batch of latents uses
    `seeds[j % len(seeds)]`, so that all rollouts of a pair share their randomness and differ by their latents alone.

    The mean of a loss over ranks equals the loss of the global batch: a mean over tokens is `ranks.global_mean`, and values
    drawn per row from a loss's `rng` come from `ranks.per_rank_random`.
    """

    def embedding(self, kind: Literal["image", "text"], items: Sequence[Picture] | Sequence[str]) -> Tensor:
        return F.normalize(self.und_latent(items), dim=-1)

    @property
    @abstractmethod
    def adapter_host(self) -> nn.Module:
        """The library module that holds the language model, where LoRA adapters are added."""

    @abstractmethod
    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        """Return the pooled language-model states of pictures or of texts, [b e], in one space."""

    @abstractmethod
    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        """Return the latents [b d] that full descriptions are drawn from; a drawing follows from its latent and a seed.

        Models whose latent holds sampled choices (the codes drawn so far) sample them with `seeds`.
        """

    @abstractmethod
    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Return the drawing of each latent [m d], as the vision encoder reads it: [m ...].

        If one encoder serves reading and drawing (Harmon), it may be the image latents that the picture is decoded from.
        Rounding and the choice of codes pass gradients straight through; everywhere else they are exact.
        """

    @abstractmethod
    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """Draw each latent [m d] and encode the drawing as the latent [m d] it would be drawn from."""

    @abstractmethod
    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """Return the native loss over replies, a scalar.

        `drawn` is the output of `draw`, one row per conversation, which then has no picture of its own.
        """

    @abstractmethod
    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return the native loss over drawings of full descriptions, a scalar; `rng` is a CPU generator."""

    @abstractmethod
    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """Return `generation_loss` of pictures drawn from the model's own encoding of them instead of from text, a scalar.

        Weights that only understanding uses get no gradient. Source: RecA, spec LatentUMM section 3.
        """

    @abstractmethod
    def trainable(self, name: str) -> bool:
        """Return whether post-training may update the parameter of that name in `named_parameters`."""


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean [b h] of states [b s h] over positions where the mask [b s] is True, in float32."""
    weights = mask[..., None].float()
    return (states.float() * weights).sum(1) / weights.sum(1)
