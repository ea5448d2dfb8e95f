"""Options of replies and of pictures; a model's own instances hold its defaults (transformers' GenerationConfig)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from transformers import PreTrainedTokenizerBase

from latentbridge.config import from_dict
from latentbridge.config.bounds import Bounded, NonNegativeInt, PositiveInt, Share
from latentbridge.errors import unknown_name
from latentbridge.sampling_limits import MAX_GUIDANCE, MAX_STEPS, check_sampling
from latentbridge.types import Reply

OptionsT = TypeVar("OptionsT", bound="ReplyOptions | DrawingOptions")


@dataclass(frozen=True)
class ReplyOptions(Bounded):
    """Options of a reply."""

    max_tokens: PositiveInt = 160
    """Most tokens of the reply."""
    temperature: Annotated[float, (0.0, 100.0)] = 0.0
    """Greedy at 0."""
    top_p: Share = 1.0
    """Nucleus sampling: the share of probability that the most likely tokens together must reach."""
    top_k: NonNegativeInt = 0
    """Number of most likely tokens that are sampled from; 0 for all."""
    stop: tuple[str, ...] = ()
    """Texts that end the reply and are left out of it."""


@dataclass(frozen=True)
class DrawingOptions(Bounded):
    """Options of generated or edited pictures; models add their own in subclasses."""

    steps: Annotated[int, (1.0, float(MAX_STEPS))] = 20
    """Sampling steps: more is slower and finer."""
    guidance: Annotated[float, (0.0, MAX_GUIDANCE)] = 2.5
    """Scale of classifier-free guidance; 1 is none."""
    size: tuple[int, ...] | None = None
    """Width and height in pixels; None is the model's own, or the shape of the picture to edit."""


def with_options(defaults: OptionsT, changes: Mapping[str, Any]) -> OptionsT:
    """Return `defaults` with the changes that are not None; raise UserError for an unknown option or a value out of range."""
    given = {name: value for name, value in changes.items() if value is not None}
    values = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    for name in changes:
        if name not in values:
            raise unknown_name("option", name, values)
    check_sampling(0, given.get("steps"), given.get("guidance"))
    return from_dict(type(defaults), {**values, **given})


def finish_reply(
    tokenizer: PreTrainedTokenizerBase,
    token_ids: Sequence[int],
    end_ids: Collection[int],
    options: ReplyOptions,
    logprobs: Sequence[float] = (),
    skip_special_tokens: bool = True,
) -> Reply:
    """Return the reply of generated tokens, up to the first of `end_ids` and the first stop text."""
    ids = list(token_ids[: options.max_tokens])
    end = next((index for index, token in enumerate(ids) if token in end_ids), None)
    kept = ids if end is None else ids[: end + 1]
    text = str(tokenizer.decode(ids[:end], skip_special_tokens=skip_special_tokens))
    stop_at = find_stop(text, options.stop)
    reason = "length" if end is None and stop_at is None else "stop"
    return Reply(text[:stop_at], tuple(kept), reason, tuple(logprobs[: len(kept)]))


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Return the position of the first stop text, if any."""
    return min((start for stop in stops if (start := text.find(stop)) >= 0), default=None)
