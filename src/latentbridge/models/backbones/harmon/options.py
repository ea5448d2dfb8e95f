"""Options of Harmon's drawings, with the defaults of wusize/Harmon at 4eb6087 (`scripts/text2image.py`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Sampler = Literal["ddpm", "ddim"]
_DENOISING_STEPS: dict[Sampler, int] = {"ddpm": 100, "ddim": 25}


@dataclass(frozen=True)
class HarmonDrawingOptions:
    """Options of generated pictures; `steps` are groups of tokens, and any multiple of a token's side is a `size`."""

    steps: int = 64
    guidance: float = 3.0
    size: tuple[int, ...] | None = None
    sampler: Sampler = "ddpm"
    """Denoising of each token: stochastic with learned variances, or deterministic, which takes fewer steps."""
    denoising_steps: int | None = None
    """Steps for each token; by default 100 of "ddpm" and 25 of "ddim"."""
    temperature: float = 1.0
    """Scale of the noise that "ddpm" adds at each step."""
    guidance_schedule: Literal["constant", "linear"] = "constant"
    """Guidance of every step, or from 1 rising with the share of tokens drawn."""

    @property
    def num_denoising_steps(self) -> int:
        return _DENOISING_STEPS[self.sampler] if self.denoising_steps is None else self.denoising_steps

    def guidance_at(self, share: float) -> float:
        """Return the guidance of a step after which the `share` of the tokens is drawn."""
        return 1 + (self.guidance - 1) * share if self.guidance_schedule == "linear" else self.guidance
