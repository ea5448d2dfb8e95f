"""Batch jobs. `run_batch` is a generator that yields after every step, so that the scheduler can interleave other work."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np

from latentbridge.errors import UserError
from latentbridge.models.options import DrawingOptions
from latentbridge.models.stepwise import StepwiseModel
from latentbridge.models.unified import UnifiedModel
from latentbridge.serving.engine.text_generation import GenerationRequest, TokenChunk, whole_reply
from latentbridge.types import Conversation, EditResult, Picture

Steps = Generator[None, None, list[Any]]
"""Yields between steps and returns a result for each job of the batch."""


class Job(Protocol):
    """A unit of work; jobs of one class and shape may be run as a batch."""

    def shape(self, model: UnifiedModel) -> Hashable:
        """Return what jobs must share to be computed in one pass without a change of each other's float sums."""
        ...

    @classmethod
    def run_batch(cls, model: UnifiedModel, jobs: Sequence[Self]) -> Steps: ...


@dataclass(frozen=True)
class ReplyJob:
    """Generates a whole reply, with a model that is not stepwise."""

    request: GenerationRequest

    def shape(self, model: UnifiedModel) -> Hashable:
        return id(self)  # replies are not batched, since conversations differ in length

    @classmethod
    def run_batch(cls, model: UnifiedModel, jobs: Sequence[Self]) -> Generator[None, None, list[TokenChunk]]:
        (request,) = (job.request for job in jobs)
        prompt_tokens = model.count_tokens(request.conversation)
        if prompt_tokens >= model.context_length:
            raise UserError(
                f"The conversation has {prompt_tokens} tokens; {model.context_length - 1} are the most, so shorten it."
            )
        yield
        room = model.context_length - prompt_tokens
        options = replace(request.options, max_tokens=min(request.options.max_tokens, room))
        (reply,) = model.reply([request.conversation], [request.generator()], **vars(options))
        return [whole_reply(reply, prompt_tokens)]


@dataclass(frozen=True)
class GenerateJob:
    """Draws a picture of a full description."""

    description: str
    seed: int
    options: DrawingOptions

    def shape(self, model: UnifiedModel) -> Hashable:
        return self.options

    @classmethod
    def run_batch(cls, model: UnifiedModel, jobs: Sequence[Self]) -> Generator[None, None, list[Picture]]:
        descriptions, seeds = [job.description for job in jobs], [job.seed for job in jobs]
        if isinstance(model, StepwiseModel):
            return (yield from model.draw_steps(descriptions, seeds, jobs[0].options))
        return model.draw_descriptions(descriptions, seeds, **vars(jobs[0].options))


@dataclass(frozen=True)
class EditJob:
    """Edits a picture; a stepwise model needs the descriptions before and after the edit."""

    picture: Picture
    instruction: str
    seed: int
    options: DrawingOptions
    before: str = ""
    after: str = ""

    def shape(self, model: UnifiedModel) -> Hashable:
        return self.options

    @classmethod
    def run_batch(cls, model: UnifiedModel, jobs: Sequence[Self]) -> Generator[None, None, list[EditResult]]:
        pictures, seeds = [job.picture for job in jobs], [job.seed for job in jobs]
        if isinstance(model, StepwiseModel):
            before, after = [job.before for job in jobs], [job.after for job in jobs]
            return (yield from model.edit_steps(pictures, before, after, seeds, jobs[0].options))
        return model.edit_pictures(pictures, [job.instruction for job in jobs], seeds, **vars(jobs[0].options))


@dataclass(frozen=True)
class EmbeddingOutput:
    """A unit vector, float32 [e], and the number of tokens it was computed from."""

    vector: np.ndarray
    tokens: int


@dataclass(frozen=True)
class ImageEmbeddingJob:
    """Embeds a picture of the model's size."""

    picture: Picture

    def shape(self, model: UnifiedModel) -> Hashable:
        return self.picture.shape

    @classmethod
    def run_batch(cls, model: UnifiedModel, jobs: Sequence[Self]) -> Generator[None, None, list[EmbeddingOutput]]:
        pictures = [job.picture for job in jobs]
        tokens = model.count_tokens(Conversation.with_picture((("", ""),), pictures[0]))
        yield
        return [EmbeddingOutput(vector, tokens) for vector in model.embed(images=pictures)]


@dataclass(frozen=True)
class TextEmbeddingJob:
    """Embeds a text."""

    text: str

    def shape(self, model: UnifiedModel) -> Hashable:
        return model.count_tokens(Conversation(((self.text, ""),)))

    @classmethod
    def run_batch(cls, model: UnifiedModel, jobs: Sequence[Self]) -> Generator[None, None, list[EmbeddingOutput]]:
        tokens = model.count_tokens(Conversation(((jobs[0].text, ""),)))
        yield
        return [EmbeddingOutput(vector, tokens) for vector in model.embed(texts=[job.text for job in jobs])]
