"""A verb with inputs of given sizes, run on a model as its users run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from latentbridge.models.options import DrawingOptions, ReplyOptions, with_options
from latentbridge.models.pixels import to_pictures
from latentbridge.models.tokenization import encode
from latentbridge.models.unified import REWRITE_PURPOSE, REWRITE_TEMPERATURE, UnifiedModel, rewrite_conversation
from latentbridge.rng import torch_rng
from latentbridge.types import Skill

if TYPE_CHECKING:
    from latentbridge.models.backbones.janus.modeling_janus import GuidedLogits, JanusPro
    from latentbridge.types import Picture

_WORD = "red"
_GREY = 127
_READ_PX = 512
"""Side of pictures to read, for models that read any size."""
_FEW = 8
"""Tokens that are traced where more follow: the cache grows by as much with every further one."""


@dataclass(frozen=True)
class Request:
    """A request to a model: verb, sizes and batch."""

    verb: Skill = "generate"
    size: tuple[int, int] | None = None
    """Width and height in pixels of pictures to draw, and to read."""
    batch: int = 1
    text_tokens: int = 64
    """Tokens of each prompt, question or instruction."""
    options: tuple[tuple[str, Any], ...] = ()
    """Options of the verb that differ from the model's own."""


class Stage(NamedTuple):
    """A call that does part of what is asked for."""

    run: Callable[[], Any]
    more_passes: int = 0
    """Passes over the language model, of one token each, that follow the last whole one of the call."""


def whole(model: UnifiedModel, request: Request) -> Callable[[], Any]:
    """Return the call that does what is asked for."""
    texts, pictures, options = _texts(model, request), _pictures(model, request), dict(request.options)
    if request.verb == "understand":
        return lambda: model.understand(pictures, texts, **options)
    if request.verb == "embed":
        return lambda: model.embed(images=pictures)
    if request.verb == "edit":
        return lambda: model.edit(pictures, texts, size=request.size, **options)
    return lambda: model.generate(texts, size=request.size, **options)


def stages(model: UnifiedModel, request: Request) -> list[Stage]:
    """Return the calls that take as much memory as the whole, with long runs of tokens cut short."""
    options = checked_options(model, request)
    texts, given = _texts(model, request), dict(request.options)
    if isinstance(options, ReplyOptions):
        if request.verb == "understand" and options.max_tokens > 2 * _FEW:
            run = whole(model, Request(**{**vars(request), "options": tuple({**given, "max_tokens": _FEW}.items())}))
            return [Stage(run, options.max_tokens - _FEW + 1)]
        return [Stage(whole(model, request))]
    if request.verb == "edit":
        return [Stage(whole(model, request))]
    if model.kind == "janus":
        return _janus_stages(model, texts, options)
    drawing = Stage(lambda: model.generate(texts, rewrite=False, size=request.size, **given))
    return [*_rewriting(model, texts), drawing]


def checked_options(model: UnifiedModel, request: Request) -> ReplyOptions | DrawingOptions:
    """Return the options of a request; raise UserError if the model lacks the verb, an option or the size."""
    model.require(request.verb)
    names = {"generate": "drawing_options", "edit": "edit_options"}
    defaults: Any = getattr(model, names.get(request.verb, "reply_options"))
    options = with_options(defaults, dict(request.options))
    if isinstance(options, DrawingOptions):
        options = with_options(options, {"size": request.size})
        model.check_size(options)
    return options


def _rewriting(model: UnifiedModel, texts: list[str]) -> list[Stage]:
    """Return the stage that completes prompts, if the model has one."""
    if not model.description_tokens:
        return []
    tokens = min(_FEW, model.description_tokens)
    conversations = [rewrite_conversation(model, text) for text in texts]
    settings = {"max_tokens": tokens, "temperature": REWRITE_TEMPERATURE}

    def run() -> Any:
        return model.reply(conversations, [torch_rng(0, REWRITE_PURPOSE) for _ in texts], **settings)

    return [Stage(run, max(0, model.description_tokens - tokens + 1))]


class _Enough(Exception):
    """Ends a drawing after a few codes."""


def _janus_stages(model: Any, texts: list[str], options: Any) -> list[Stage]:
    janus: JanusPro = model
    size = len(texts), janus.num_codes, janus.codebook_size
    few = min(_FEW, janus.num_codes - 1)

    def sample() -> None:
        noise = torch.rand(size).to(janus.device)

        def choose(index: int, logits: GuidedLogits) -> torch.Tensor:
            if index == few:
                raise _Enough
            return (logits.guided + noise[:, index]).argmax(-1)

        try:
            janus.decode_codes(texts, options.guidance, choose)
        except _Enough:
            return

    def decode() -> list[Picture]:
        return to_pictures(janus.decode_pixels(torch.zeros(size[:2], dtype=torch.long).to(janus.device)))

    return [Stage(sample, janus.num_codes - few), Stage(decode)]


def _pictures(model: UnifiedModel, request: Request) -> list[Picture]:
    side = model.image_size_px or model.drawing_size_px or _READ_PX
    width, height = request.size or (side, side)
    return [np.full((height, width, 3), _GREY, np.uint8)] * request.batch


def _texts(model: UnifiedModel, request: Request) -> list[str]:
    """Return texts of about so many tokens as asked for."""
    each = max(1, len(encode(model.tokenizer, f" {_WORD}")))
    return [" ".join([_WORD] * max(1, request.text_tokens // each))] * request.batch
