"""A verb with inputs of given sizes, run on a model as its users run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentbridge.models.options import DrawingOptions, ReplyOptions, with_options
from latentbridge.models.tokenization import encode
from latentbridge.models.unified import UnifiedModel
from latentbridge.types import Skill

_WORD = "red"
_GREY = 127
_READ_PX = 512
"""Side of pictures to read, for models that read any size."""


@dataclass(frozen=True)
class Request:
    """What a model is asked for."""

    verb: Skill = "generate"
    size: tuple[int, int] | None = None
    """Width and height in pixels of pictures to draw, and to read."""
    batch: int = 1
    text_tokens: int = 64
    """Tokens of each prompt, question or instruction."""
    options: tuple[tuple[str, Any], ...] = ()
    """Options of the verb that differ from the model's own."""


def runner(model: UnifiedModel, request: Request) -> Callable[[], Any]:
    """Return the call that does what is asked for; raise UserError if the model cannot."""
    model.require(request.verb)
    texts, options = [_text(model, request.text_tokens)] * request.batch, dict(request.options)
    side = model.image_size_px or model.drawing_size_px or _READ_PX
    width, height = request.size or (side, side)
    pictures = [np.full((height, width, 3), _GREY, np.uint8)] * request.batch
    if request.verb == "understand":
        return lambda: model.understand(pictures, texts, **options)
    if request.verb == "embed":
        return lambda: model.embed(images=pictures)
    if request.verb == "edit":
        return lambda: model.edit(pictures, texts, size=request.size, **options)
    return lambda: model.generate(texts, size=request.size, **options)


def _text(model: UnifiedModel, num_tokens: int) -> str:
    """Return a text of about so many tokens."""
    each = max(1, len(encode(model.tokenizer, f" {_WORD}")))
    return " ".join([_WORD] * max(1, num_tokens // each))


def checked_options(model: UnifiedModel, request: Request) -> ReplyOptions | DrawingOptions:
    """Return the options of a request; raise UserError if the model lacks the verb, an option or the size."""
    model.require(request.verb)
    defaults: dict[str, Any] = {"generate": "drawing_options", "edit": "edit_options"}
    options = with_options(getattr(model, defaults.get(request.verb, "reply_options")), dict(request.options))
    if isinstance(options, DrawingOptions):
        options = with_options(options, {"size": request.size})
        model.check_size(options)
    return options
