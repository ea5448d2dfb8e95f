"""Batch jobs. `run_batch` is a generator that yields after every step, so that the scheduler can interleave other work."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from latentbridge.models.condition import map_condition
from latentbridge.models.omnibridge.modeling_omnibridge import EditPlan, Model
from latentbridge.types import Conversation, EditResult, Picture

Steps = Generator[None, None, list[Any]]
"""Yields between steps and returns a result for each job of the batch."""


class Job(Protocol):
    """A unit of work; jobs of one class and shape may be run as a batch."""

    def shape(self, model: Model) -> Hashable:
        """Return what jobs must share to be computed in one pass without a change of each other's float sums."""
        ...

    @classmethod
    def run_batch(cls, model: Model, jobs: Sequence[Self]) -> Steps: ...


@dataclass(frozen=True)
class GenerateJob:
    """Draws a picture of a full description."""

    description: str
    seed: int
    steps: int
    guidance: float

    def shape(self, model: Model) -> Hashable:
        return self.steps, self.guidance

    @classmethod
    def run_batch(cls, model: Model, jobs: Sequence[Self]) -> Generator[None, None, list[Picture]]:
        """Encode descriptions one by one, since they differ in length, and denoise as a batch."""
        conditions: list[Any] = []
        for job in jobs:
            conditions.append(model.describe_condition([job.description], "query"))
            yield
        condition = map_condition(lambda *rows: torch.cat(rows), *conditions)
        seeds = [job.seed for job in jobs]
        latents = yield from _last(model.denoise_steps(condition, seeds, jobs[0].steps, jobs[0].guidance))
        return model.decode_pictures(latents)


@dataclass(frozen=True)
class EditJob:
    """Changes a picture from one description to another."""

    picture: Picture
    before: str
    after: str
    seed: int
    steps: int
    guidance: float

    def shape(self, model: Model) -> Hashable:
        return self.steps, self.guidance

    @classmethod
    def run_batch(cls, model: Model, jobs: Sequence[Self]) -> Generator[None, None, list[EditResult]]:
        seeds = [job.seed for job in jobs]
        before, after = [job.before for job in jobs], [job.after for job in jobs]
        plan: EditPlan = model.plan_edit([job.picture for job in jobs], before, after, seeds)
        steps = model.denoise_steps(plan.condition, seeds, jobs[0].steps, jobs[0].guidance, plan.keep)
        latents = yield from _last(steps)
        return model.finish_edit(plan, latents)


@dataclass(frozen=True)
class EmbeddingOutput:
    """A unit vector, float32 [e], and the number of tokens it was computed from."""

    vector: np.ndarray
    tokens: int


@dataclass(frozen=True)
class ImageEmbeddingJob:
    """Embeds a picture of the model's size."""

    picture: Picture

    def shape(self, model: Model) -> Hashable:
        return self.picture.shape

    @classmethod
    def run_batch(cls, model: Model, jobs: Sequence[Self]) -> Generator[None, None, list[EmbeddingOutput]]:
        pictures = [job.picture for job in jobs]
        tokens = _count_tokens(model, Conversation((("", ""),), pictures[0]))
        yield
        return [EmbeddingOutput(vector, tokens) for vector in model.embed(images=pictures)]


@dataclass(frozen=True)
class TextEmbeddingJob:
    """Embeds a text."""

    text: str

    def shape(self, model: Model) -> Hashable:
        return _count_tokens(model, Conversation(((self.text, ""),)))

    @classmethod
    def run_batch(cls, model: Model, jobs: Sequence[Self]) -> Generator[None, None, list[EmbeddingOutput]]:
        tokens = _count_tokens(model, Conversation(((jobs[0].text, ""),)))
        yield
        return [EmbeddingOutput(vector, tokens) for vector in model.embed(texts=[job.text for job in jobs])]


def _count_tokens(model: Model, conversation: Conversation) -> int:
    return model.backbone.tokenize([conversation], open_ended=True).input_ids.shape[1]


def _last(steps: Iterator[Tensor]) -> Generator[None, None, Tensor]:
    """Return the last of some tensors, yielding after each."""
    newest: deque[Tensor] = deque(maxlen=1)
    for latents in steps:
        newest.append(latents)
        yield
    return newest.pop()
