"""The kinds of work that are done in batches. A batch is a generator: it rests after every step, so that others get their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from latentbridge.models.condition import map_condition
from latentbridge.models.omnibridge.editing import finish_edit, plan_edit
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.types import Conversation, EditResult, Picture

Steps = Generator[None, None, list[Any]]
"""Rests between steps, and returns a result for each work of the batch."""


class Job(Protocol):
    """One item of work; `run_batch` does those of one class and `shape`."""

    def shape(self, model: OmniBridge) -> Hashable:
        """What works must share to be computed in one pass without moving each other's float sums."""
        ...

    @classmethod
    def run_batch(cls, model: OmniBridge, works: Sequence[Self]) -> Steps: ...


@dataclass(frozen=True)
class GenerateJob:
    """A picture of a full description."""

    description: str
    seed: int
    steps: int
    guidance: float

    def shape(self, model: OmniBridge) -> Hashable:
        return self.steps, self.guidance

    @classmethod
    def run_batch(cls, model: OmniBridge, works: Sequence[Self]) -> Generator[None, None, list[Picture]]:
        """Descriptions differ in length, so each is read alone; denoising, which takes long, is done at once."""
        conditions: list[Any] = []
        for work in works:
            conditions.append(model.describe_condition([work.description], "query"))
            yield
        condition = map_condition(lambda *rows: torch.cat(rows), *conditions)
        seeds = [work.seed for work in works]
        latents = yield from _resting(model.denoise_steps(condition, seeds, works[0].steps, works[0].guidance))
        return model.decode_pictures(latents)


@dataclass(frozen=True)
class EditJob:
    """A picture changed from one description to another."""

    picture: Picture
    before: str
    after: str
    seed: int
    steps: int
    guidance: float

    def shape(self, model: OmniBridge) -> Hashable:
        return self.steps, self.guidance

    @classmethod
    def run_batch(cls, model: OmniBridge, works: Sequence[Self]) -> Generator[None, None, list[EditResult]]:
        seeds = [work.seed for work in works]
        before, after = [w.before for w in works], [w.after for w in works]
        plan = plan_edit(model, [w.picture for w in works], before, after, seeds)
        steps = model.denoise_steps(plan.condition, seeds, works[0].steps, works[0].guidance, plan.keep)
        latents = yield from _resting(steps)
        return finish_edit(model, plan, latents)


@dataclass(frozen=True)
class EmbeddingOutput:
    """A unit vector, float32 [e], and how many tokens were read for it."""

    vector: np.ndarray
    tokens: int


@dataclass(frozen=True)
class ImageEmbeddingJob:
    """The unit vector of a picture that has the model's size."""

    picture: Picture

    def shape(self, model: OmniBridge) -> Hashable:
        return self.picture.shape

    @classmethod
    def run_batch(cls, model: OmniBridge, works: Sequence[Self]) -> Generator[None, None, list[EmbeddingOutput]]:
        pictures = [work.picture for work in works]
        tokens = _tokens(model, Conversation((("", ""),), pictures[0]))
        yield
        return [EmbeddingOutput(vector, tokens) for vector in model.embed(images=pictures)]


@dataclass(frozen=True)
class TextEmbeddingJob:
    """The unit vector of a text."""

    text: str

    def shape(self, model: OmniBridge) -> Hashable:
        return _tokens(model, Conversation(((self.text, ""),)))

    @classmethod
    def run_batch(cls, model: OmniBridge, works: Sequence[Self]) -> Generator[None, None, list[EmbeddingOutput]]:
        tokens = _tokens(model, Conversation(((works[0].text, ""),)))
        yield
        return [EmbeddingOutput(vector, tokens) for vector in model.embed(texts=[work.text for work in works])]


def _tokens(model: OmniBridge, conversation: Conversation) -> int:
    return model.backbone.tokenize([conversation], open_ended=True).input_ids.shape[1]


def _resting(steps: Iterator[Tensor]) -> Generator[None, None, Tensor]:
    """The last of some steps, with a rest after each."""
    newest: deque[Tensor] = deque(maxlen=1)
    for latents in steps:
        newest.append(latents)
        yield
    return newest.pop()
