"""The context that replies and drawings attend to: keys and values of texts and pictures in order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from latentbridge.models.backbones.bagel.latent_tokens import Shape
from latentbridge.models.backbones.bagel.mixture_of_transformers import Past


class Context(NamedTuple):
    """Keys and values of the tokens before a reply or a drawing."""

    past: Past
    mask: Tensor
    """bool [b s]; False at masked tokens."""
    positions: Tensor
    """int64 [b s]."""
    end: Tensor
    """int64 [b]; the position that follows."""

    def before(self, position: Tensor) -> Context:
        """Return the context as it was before its tokens at `position` [b] and later: those are masked."""
        earlier = self.positions < position[:, None]
        return Context(self.past, self.mask & earlier, self.positions, torch.minimum(self.end, position))


class Branches(NamedTuple):
    """The contexts of a guided drawing."""

    full: Context
    without_text: Context
    without_image: Context
    """`full` itself where no picture and no thoughts are left out."""


class Reference(NamedTuple):
    """Pictures to edit, all of one shape, which the generation expert reads as clean latents."""

    latents: Tensor
    """[b n c]."""
    shape: Shape
    position: int


class Prefill(NamedTuple):
    """Both experts' final states over given tokens, and the context for later ones."""

    states: Tensor
    """[b s h] of the understanding expert, which reads texts, picture markers and SigLIP tokens."""
    reference_states: Tensor | None
    """[b n h] of the generation expert at the tokens of a `Reference`."""
    context: Context
