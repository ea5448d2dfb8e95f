"""The nouns that cross module borders. Axis letters: b batch, s sequence, n condition position, d width, c channel, h w grid."""

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
"""How an edit is drawn: inside a mask, or anew as the released OmniBridge does."""


@dataclass(frozen=True)
class Conversation:
    """Turns of (user, assistant) text about at most one picture, which stands before the first user text."""

    turns: tuple[tuple[str, str], ...]
    picture: Picture | None = None
    counts: bool = True
    """Whether a model that trains on it learns its replies, or only reads it."""


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
    """As they are written, each once, in the order they come."""
    rest: str
    """The text without them; empty where no word of it is known."""


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
    """What embeddings must share to be compared."""

    model: str
    """The model's name and, where it is known, a hash of its weights."""
    dimension: int
    normalisation: Literal["unit", "none"]


class Teacher(Protocol):
    """A frozen embedding model that puts pictures and texts into one space."""

    space: EmbeddingSpace

    def embed_pictures(self, pictures: Sequence[Picture]) -> np.ndarray:
        """float32 [b, dimension]; the pictures may differ in size."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [b, dimension]."""
        ...

    def knows(self, text: str) -> bool:
        """Whether `embed_texts` has an answer to the text."""
        return True

    def cost(self, pictures: int, texts: Sequence[str]) -> str:
        """What embedding so many pictures and these texts will cost, in one sentence; empty where it is free."""
        return ""


class Observer(Protocol):
    """Who looks on at a run and changes nothing in it: trackers, samples at intervals."""

    def begin(self, folder: Path, config: RunConfig) -> None:
        """Before the first step of a run in `folder`, and before it goes on."""

    def looks(self, step: int) -> bool:
        """Whether it wants to see the model after `step` steps."""
        return False

    def look(self, model: Any, step: int) -> dict[str, float]:
        """Measures of the model after `step` steps, for the log."""
        return {}

    def note(self, record: Mapping[str, Any]) -> None:
        """A row of the log, once it is written."""
