"""The models that a benchmark uses: the model under test, and models that grade."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from latentbridge.errors import UserError
from latentbridge.evaluation.bench.cached_model import CachedModel
from latentbridge.types import Teacher

if TYPE_CHECKING:
    from latentbridge.evaluation.bench.detector import Detector
    from latentbridge.evaluation.bench.encoders import PictureEncoder
    from latentbridge.evaluation.bench.judge import Judge

T = TypeVar("T")


@dataclass(frozen=True)
class Tools:
    """The model under test, and what grades its pictures and replies."""

    model: CachedModel
    encoders: Sequence[PictureEncoder] = ()
    detector: Detector | None = None
    colours: Teacher | None = None
    """A CLIP that tells the colours of objects."""
    vqa: CachedModel | None = None
    """A model that answers questions about generated pictures."""
    judge: Judge | None = None

    def describe(self) -> dict[str, Any]:
        """Return what names the grading models, for the report."""
        return {
            "encoders": [encoder.name for encoder in self.encoders],
            "detector": self.detector.describe() if self.detector else None,
            "colours": self.colours.space.model if self.colours else None,
            "vqa": self.vqa.identity if self.vqa else None,
            "judge": self.judge.describe() if self.judge else None,
        }


def require(tool: T | None, option: str) -> T:
    """Return a grading model; raise UserError if there is none."""
    if tool is None:
        raise UserError(f"This benchmark needs a grading model; name it with --{option}.")
    return tool
