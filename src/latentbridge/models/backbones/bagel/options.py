"""What a drawing or an edit by BAGEL may be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel.rectified_flow import RENORMS, Renorm

THINK_PROMPT = (
    "You should first think about the planning process in the mind and then generate the image. \n"
    "The planning process is enclosed within <think> </think> tags, i.e. <think> planning process here </think> image here"
)
"""System prompt that asks for thoughts before a picture (`inferencer.py` of ByteDance-Seed/Bagel at 056b5fd)."""


@dataclass(frozen=True)
class BagelOptions:
    """Defaults are the authors' for text to image (`inference.ipynb` at 056b5fd)."""

    steps: int = 50
    """Times from noise to picture, both counted: there is one move fewer."""
    guidance: float = 4.0
    """Guidance away from the velocity without the text; at most 1 is no guidance at all, away from the picture neither."""
    size: tuple[int, int] | None = None
    """Width and height in pixels; None is the largest square, and for edits the picture's own shape."""
    image_guidance: float = 1.0
    """Guidance away from the velocity without the picture, after that of the text; at most 1 is none."""
    renorm: Renorm = "global"
    renorm_min: float = 0.0
    """Least factor by which a guided velocity is scaled down; at 1 it never is."""
    interval: tuple[float, float] = (0.4, 1.0)
    """Times above the first and up to the second are guided."""
    shift: float = 3.0
    """Above 1, more of the times are at the noisy end."""
    think: bool = False
    """The model writes thoughts first, greedily, and draws from prompt and thoughts."""
    think_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise UserError("BAGEL draws in steps - 1 moves; give 2 steps or more, such as 50.")
        if self.renorm not in RENORMS:
            raise UserError(f"There is no renorm {self.renorm!r}; give one of {', '.join(RENORMS)}.")
        if not 0 <= self.renorm_min <= 1:
            raise UserError(f"renorm_min {self.renorm_min!r} is out of range; give a number from 0 to 1.")
        if not (len(self.interval) == 2 and 0 <= self.interval[0] <= self.interval[1] <= 1):
            raise UserError(f"interval {self.interval!r} is not two rising times from 0 to 1; give e.g. 0.4 and 1.")
        if self.shift <= 0 or self.image_guidance < 0 or self.think_tokens < 1:
            raise UserError("shift and think_tokens are above 0 and image_guidance is 0 or more; change what is not.")

    def guides(self, time: Tensor) -> bool:
        """Return whether drawings are guided at a time, a float32 scalar."""
        return self.guidance > 1 and bool(time > self.interval[0]) and bool(time <= self.interval[1])


EDIT_OPTIONS = BagelOptions(image_guidance=2.0, renorm="text_channel", interval=(0.0, 1.0))
"""The authors' defaults for editing (`inference.ipynb` and `app.py` at 056b5fd)."""
