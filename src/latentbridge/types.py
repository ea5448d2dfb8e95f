"""Types shared by all modules. Axis letters: b batch, s sequence, n condition position, d width, c channel, h w grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from latentbridge.config import RunConfig

Picture = np.ndarray
"""uint8 [h, w, 3], RGB."""

Skill = Literal["understand", "generate", "edit", "embed"]
EditMethod = Literal["masked", "reference"]
"""Editing method: inside a mask, or a new drawing as the released OmniBridge makes."""


@dataclass(frozen=True)
class Conversation:
    """Turns of (user, assistant) text about at most one picture, which precedes the first user text."""

    turns: tuple[tuple[str, str], ...]
    picture: Picture | None = None
    counts: bool = True
    """True if training computes a loss on the replies."""


@dataclass(frozen=True)
class Hit:
    """One search result."""

    id: str
    score: float
    """Cosine similarity in [-1, 1]."""


@dataclass(frozen=True)
class WordReport:
    """The words of a text that a model does not know."""

    unknown: tuple[str, ...]
    """As written, without duplicates, in order of appearance."""
    rest: str
    """The text without the unknown words; empty if no word is known."""


@dataclass(frozen=True)
class GenerationResult:
    """A generated picture with the description and the seed it was drawn from."""

    picture: Picture
    description: str
    """The prompt as the model completed it, or as it was given where nothing was completed."""
    seed: int


@dataclass(frozen=True)
class EditResult:
    """An edited picture with the descriptions and the mask it was made from."""

    picture: Picture
    before: str
    """The description of the source picture."""
    after: str
    """The description the instruction leads to."""
    mask: np.ndarray
    """bool [h, w]: where new content was allowed."""


class LossOutputs(NamedTuple):
    """A scalar to minimise and the named parts it was made of (detached floats, for the log).

    A tuple, since FSDP looks for tensors in what a module returns and sees into no dataclass.
    """

    loss: object
    parts: dict[str, float] = {}
    terms: dict[str, object] = {}
    """The weighted scalars that add up to the loss, where it is worth the time to log their shares of the gradient."""


@dataclass(frozen=True)
class EmbeddingSpace:
    """The properties that embeddings must share to be comparable."""

    model: str
    """Name of the model and, if known, a hash of its weights."""
    dimension: int
    normalisation: Literal["unit", "none"]


class Teacher(Protocol):
    """A frozen embedding model for pictures and texts."""

    space: EmbeddingSpace

    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Return float32 [b, dimension]; the pictures may differ in size."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [b, dimension]."""
        ...

    def knows(self, text: str) -> bool:
        """Return whether `embed_texts` can embed the text."""
        return True

    def cost(self, pictures: int, texts: Sequence[str]) -> str:
        """Return the cost of embedding so many pictures and these texts in one sentence; empty if it is free."""
        return ""


class Observer(Protocol):
    """A callback of a training run that does not change it, such as a tracker or a sampler."""

    def on_train_begin(self, folder: Path, config: RunConfig) -> None:
        """Prepare for a run in `folder` before its first step or its next after a resume."""

    def should_evaluate(self, step: int) -> bool:
        """Return whether `on_evaluate` is to be called after `step` steps."""
        return False

    def on_evaluate(self, model: Any, step: int) -> dict[str, float]:
        """Return measures of the model after `step` steps, for the log."""
        return {}

    def on_log(self, record: Mapping[str, Any]) -> None:
        """Receive a record of the log after it is written."""
