"""Options of replies, drawings and edits by BAGEL, with its authors' defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from latentbridge.config.bounds import PositiveInt, Share
from latentbridge.errors import UserError
from latentbridge.models.backbones.bagel.rectified_flow import Renorm
from latentbridge.models.options import DrawingOptions, ReplyOptions
from latentbridge.sampling_limits import MAX_GUIDANCE, MAX_STEPS

DRAWING_THINK_PROMPT = (
    "You should first think about the planning process in the mind and then generate the image. \n"
    "The planning process is enclosed within <think> </think> tags, i.e. <think> planning process here </think> image here"
)
READING_THINK_PROMPT = (
    "You should first think about the reasoning process in the mind and then provide the user with the answer. \n"
    "The reasoning process is enclosed within <think> </think> tags, i.e. <think> reasoning process here </think> answer here"
)
"""System prompts that ask for thoughts before a picture or an answer (`inferencer.py` of ByteDance-Seed/Bagel at 056b5fd)."""


@dataclass(frozen=True)
class BagelReplyOptions(ReplyOptions):
    """Options of a reply by BAGEL."""

    think: bool = False
    """The reply begins with thoughts, which the authors' system prompt asks for unless the conversation has its own."""


@dataclass(frozen=True)
class BagelOptions(DrawingOptions):
    """Defaults are the authors' for text to image (`inference.ipynb` at 056b5fd); their `app.py` has 1.5 of image guidance."""

    steps: Annotated[int, (2.0, float(MAX_STEPS))] = 50
    """Times from noise to picture, both counted: there is one move fewer."""
    guidance: Annotated[float, (0.0, MAX_GUIDANCE)] = 4.0
    """Guidance away from the velocity without the text; at most 1 is no guidance at all, away from the picture neither."""
    image_guidance: Annotated[float, (0.0, MAX_GUIDANCE)] = 1.0
    """Guidance away from the velocity without the picture (and thoughts), after that of the text; at most 1 is none."""
    renorm: Renorm = "global"
    renorm_min: Share = 0.0
    """Least factor by which a guided velocity is scaled down; at 1 it never is."""
    interval: tuple[float, ...] = (0.4, 1.0)
    """Times above the first and up to the second are guided."""
    shift: Annotated[float, (0.01, 100.0)] = 3.0
    """Above 1, more of the times are at the noisy end."""
    think: bool = False
    """The model first writes thoughts, greedily, and draws from prompt and thoughts."""
    think_tokens: PositiveInt = 1024
    """Most tokens of the thoughts."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.interval) != 2 or not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise UserError(f"interval {list(self.interval)} is not two rising times from 0 to 1; give e.g. [0.4, 1].")

    def guides(self, time: Tensor) -> bool:
        """Return whether drawings are guided at a time, a float32 scalar."""
        return self.guidance > 1 and bool(time > self.interval[0]) and bool(time <= self.interval[1])


EDIT_OPTIONS = BagelOptions(image_guidance=2.0, renorm="text_channel", interval=(0.0, 1.0))
"""The authors' defaults for editing (`inference.ipynb` and `app.py` at 056b5fd)."""
