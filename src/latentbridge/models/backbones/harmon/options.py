"""Options of Harmon's drawings, with the defaults of wusize/Harmon at 4eb6087 (`scripts/text2image.py`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from latentbridge.config.bounds import NonNegativeInt, Weight
from latentbridge.models.options import DrawingOptions, ReplyOptions
from latentbridge.sampling_limits import MAX_GUIDANCE, MAX_STEPS

Sampler = Literal["ddpm", "ddim"]
_DENOISING_STEPS: dict[Sampler, int] = {"ddpm": 100, "ddim": 25}


@dataclass(frozen=True)
class HarmonReplyOptions(ReplyOptions):
    """Options of a reply."""

    picture_size_px: NonNegativeInt = 0
    """Side at which pictures are read, a multiple of a token's; 0 for the model's own."""


@dataclass(frozen=True)
class HarmonDrawingOptions(DrawingOptions):
    """Options of generated pictures; `steps` are groups of tokens, and the sides of `size` are multiples of a token's."""

    steps: Annotated[int, (1.0, float(MAX_STEPS))] = 64
    guidance: Annotated[float, (0.0, MAX_GUIDANCE)] = 3.0
    sampler: Sampler = "ddpm"
    """Denoising of each token: stochastic with learned variances, or deterministic, which takes fewer steps."""
    denoising_steps: Annotated[int, (0.0, float(MAX_STEPS))] = 0
    """Steps for each token; 0 for 100 of "ddpm" or 25 of "ddim"."""
    temperature: Weight = 1.0
    """Scale of the noise that "ddpm" adds at each step."""
    guidance_schedule: Literal["constant", "linear"] = "constant"
    """Guidance of every step, or from 1 rising with the share of tokens drawn."""

    @property
    def num_denoising_steps(self) -> int:
        return self.denoising_steps or _DENOISING_STEPS[self.sampler]

    def at_step(self, num_drawn: int, num_tokens: int) -> HarmonDrawingOptions:
        """Return the options with the guidance of the step after which `num_drawn` of the tokens are drawn."""
        if self.guidance_schedule == "constant":
            return self
        share = min(num_drawn, num_tokens - 1) / num_tokens  # the authors' count leaves one token in the last step too
        return replace(self, guidance=1 + (self.guidance - 1) * share)
