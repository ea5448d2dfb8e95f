"""The nouns that cross module borders. Axis letters: b batch, s sequence, n condition position, d width, c channel, h w grid."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Picture = np.ndarray
"""uint8 [h, w, 3], RGB."""


@dataclass(frozen=True)
class Conversation:
    """Turns of (user, assistant) text about at most one picture, which stands before the first user text."""

    turns: tuple[tuple[str, str], ...]
    picture: Picture | None = None


@dataclass(frozen=True)
class Hit:
    """One search result."""

    id: str
    score: float
    """Cosine similarity in [-1, 1]."""


@dataclass(frozen=True)
class EditResult:
    """An edited picture with what the model read and wrote on the way."""

    picture: Picture
    before: str
    """The description of the source picture."""
    after: str
    """The description the instruction leads to."""
    mask: np.ndarray
    """bool [h, w]: where new content was allowed."""


@dataclass(frozen=True)
class LossOutputs:
    """A scalar to minimise and the named parts it was made of (detached floats, for the log)."""

    loss: object
    parts: dict[str, float] = field(default_factory=dict)
