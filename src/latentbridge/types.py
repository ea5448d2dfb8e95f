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


@dataclass(frozen=True)
class Conversation:
    """Turns of (user, assistant) text, with pictures before the user text of a turn."""

    turns: tuple[tuple[str, str], ...]
    pictures: tuple[tuple[Picture, ...], ...] = ()
    """The pictures of each turn; turns beyond its length have none."""
    counts: bool = True
    """True if training computes a loss on the replies."""
    system: str | None = None
    """System message; None is the model's own system prompt, an empty text is none."""

    @classmethod
    def with_picture(cls, turns: tuple[tuple[str, str], ...], picture: Picture | None) -> Conversation:
        """Return a conversation about one picture, which precedes the first user text, or about none."""
        return cls(turns, () if picture is None else ((picture,),))

    @property
    def all_pictures(self) -> list[Picture]:
        """The pictures of all turns in order."""
        return [picture for turn in self.pictures for picture in turn]


FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Reply:
    """The reply to a conversation."""

    text: str
    """Without the tokens that end a turn, and cut at the first stop text."""
    token_ids: tuple[int, ...]
    """All generated tokens, the end of the turn included."""
    finish_reason: FinishReason
    """"length" if the limit of tokens ended the reply."""
    logprobs: tuple[float, ...] = ()
    """Log-probability of each token under the distribution it was sampled from; empty if the model does not report them."""


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
    """An edited picture, with the descriptions and the mask it was made from."""

    picture: Picture
    before: str = ""
    """The description of the source picture, if the model wrote one."""
    after: str = ""
    """The description the instruction leads to, if the model wrote one."""
    mask: np.ndarray | None = None
    """bool [h, w]: where new content was allowed; None for a model that draws the whole picture anew."""


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
