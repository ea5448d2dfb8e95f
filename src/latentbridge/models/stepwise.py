"""The contract of models that generate step by step, so that a server can interleave requests and batch each step."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from latentbridge.models.qwen_vl.continuous_batching import ContinuousBatch
from latentbridge.types import EditResult, Picture

_T = TypeVar("_T")


@runtime_checkable
class StepwiseModel(Protocol):
    """A model whose replies are batched continuously and whose pictures are drawn by generators that yield after each step.

    Results do not depend on the other items of a batch if all have the same options.
    """

    def new_reply_batch(self, slots: int, length: int) -> ContinuousBatch:
        """Return an empty batch of replies; `length` is the number of tokens of a prompt and its reply."""
        ...

    def draw_steps(
        self, descriptions: Sequence[str], seeds: Sequence[int], options: Any
    ) -> Generator[None, None, list[Picture]]:
        """Draw full descriptions; `options` as in `UnifiedModel._draw`."""
        ...

    def edit_steps(
        self,
        pictures: Sequence[Picture],
        before: Sequence[str],
        after: Sequence[str],
        seeds: Sequence[int],
        options: Any,
    ) -> Generator[None, None, list[EditResult]]:
        """Edit the second of `edit_views` from one description to another; `options` as in `UnifiedModel._edit`."""
        ...

    def edit_views(self, picture: Picture) -> tuple[Picture, Picture]:
        """Return a picture of any size as the model reads it, to describe it, and as `edit_steps` changes it."""
        ...

    def restore_edit(self, picture: Picture, result: EditResult) -> EditResult:
        """Return the edit of a picture at its own size from that of its `edit_views`."""
        ...


def last_of(items: Iterator[_T]) -> Generator[None, None, _T]:
    """Yield after each item, and return the last one."""
    newest: list[_T] = []
    for item in items:
        newest[:] = [item]
        yield
    return newest[0]
