"""What post-training asks of a model that understands and draws, whatever is inside; `docs/backbones.md` tells how to add one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from latentbridge.types import Conversation, Picture


class UnifiedBackbone(Protocol):
    """Two latent spaces and the way between them; all latents are float32 and carry gradients.

    Every method takes a batch, and no item's result depends on its batch-mates. Pictures may have any size. Where
    `seeds` are given, row j uses `seeds[j % len(seeds)]`, so that all rollouts of a pair share its randomness and differ
    by their latents alone; nothing draws from a global generator.

    The mean of a loss over ranks is that of the whole batch: a mean over tokens is `ranks.mean_of_all`, and what is
    drawn for rows from a loss's `rng` is `ranks.chance`.
    """

    def und_latent(self, items: Sequence[Picture] | Sequence[str]) -> Tensor:
        """What the model makes of pictures or of texts, [b e], in one space: the language model's states, pooled."""
        ...

    def gen_latent(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> Tensor:
        """What the model draws full descriptions from, [b d]: all of it, so that a drawing follows from it and a seed.

        Models whose latent holds choices already made (the codes drawn so far) make them with `seeds`.
        """
        ...

    def draw(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """What a viewer would get of each of `latents` [m d], as the model reads it: one drawing a row, [m ...].

        Where one encoder serves reading and drawing (Harmon), it may be the image latents that the picture is decoded
        from. Through rounding and choice of codes the gradient passes straight, everywhere else it is exact.
        """
        ...

    def roundtrip(self, latents: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
        """`draw`, and read each drawing with the understanding path, as the latent [m d] it would be drawn from."""
        ...

    def generate(self, prompts: Sequence[str], seeds: Sequence[int] = (0,)) -> list[Picture]:
        """Drawings of full descriptions."""
        ...

    def understand(self, pictures: Sequence[Picture], questions: Sequence[str]) -> list[str]:
        """Answers to questions about pictures, one each; greedy."""
        ...

    def understanding_loss(self, conversations: Sequence[Conversation], drawn: Tensor | None = None) -> Tensor:
        """What the model was trained to minimise over replies, a scalar.

        `drawn` is what `draw` gave, one row for each conversation, which then has no picture of its own.
        """
        ...

    def generation_loss(self, prompts: Sequence[str], pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """What the model was trained to minimise over drawings of full descriptions, a scalar; `rng` lives on the CPU."""
        ...

    def reconstruction_loss(self, pictures: Sequence[Picture], rng: torch.Generator) -> Tensor:
        """`generation_loss` of pictures drawn from the model's own reading of them instead of from words, a scalar.

        What only reads is held still: nothing that understanding alone uses moves by it. Source: RecA, spec LatentUMM
        section 3.
        """
        ...

    def trainable(self, name: str) -> bool:
        """Whether post-training may move the parameter of that name in `named_parameters`."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters, also those that must stay."""
        ...


def repeat_seeds(seeds: Sequence[int], rows: int) -> list[int]:
    """The seed of each row, pair after pair and again."""
    return [seeds[row % len(seeds)] for row in range(rows)]


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean [b h] of states [b s h] where the mask [b s] is True, in float32."""
    weights = mask[..., None].float()
    return (states.float() * weights).sum(1) / weights.sum(1)
