"""POST /v1/chat/completions: questions about a picture, or talk without one; whole or streamed."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from latentbridge import prompts
from latentbridge.errors import UserError
from latentbridge.serving.api_errors import error_document
from latentbridge.serving.engine.text_generation import GenerationRequest, TokenChunk
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.openapi import REFUSALS
from latentbridge.serving.schemas import (
    ChatAnswer,
    ChatChunk,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    ImagePart,
    Message,
    ReplyMessage,
    Usage,
)
from latentbridge.serving.service import Service, TheService, new_seed, now
from latentbridge.types import Conversation

router = APIRouter(route_class=JsonRoute, responses=REFUSALS)
_STREAM: dict[int | str, Any] = {
    200: {
        "description": "The reply; with `stream`, events of ChatChunk that end with [DONE].",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
_MARKS = re.compile(r"<\|[a-z_]+\|>")
"""Special tokens of the language model; users' words never become one, but replies are read as they were written."""
_REASONED = {
    "low": prompts.with_reasoning,
    "medium": prompts.with_reasoning,
    "high": prompts.with_long_reasoning,
    "xhigh": prompts.with_long_reasoning,
}


@router.post("/v1/chat/completions", response_model=ChatAnswer, responses=_STREAM, operation_id="chat")
async def chat(asked: ChatRequest, request: Request, service: TheService) -> Any:
    """A reply to a conversation with at most one picture, given as a data URL."""
    service.check_model(asked.model)
    ask = await ask_of(asked, service)
    request.state.charge(ask.max_tokens)
    warnings = await warnings_of(asked, ask, service)
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": now(), "model": service.settings.model_name}
    if not asked.stream:
        pieces = await service.answer(request, partial(_all, service, ask))
        text = ReplyMessage(content="".join(piece.text for piece in pieces))
        choice = Choice(message=text, finish_reason=pieces[-1].finish_reason or "stop")
        return ChatAnswer(**head, choices=[choice], usage=_usage(pieces[-1]), warnings=warnings)
    pieces = service.pieces(ask)
    first = await service.unless_gone(request, anext(pieces))  # what is refused is refused before the stream begins
    wants_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return StreamingResponse(_events(head, first, pieces, wants_usage, warnings), media_type="text/event-stream")


async def _all(service: Service, ask: GenerationRequest) -> list[TokenChunk]:
    async with aclosing(service.engine.pieces(ask)) as pieces:
        return [piece async for piece in pieces]


async def _events(
    head: dict[str, Any], piece: TokenChunk, rest: AsyncGenerator[TokenChunk], wants_usage: bool, warnings: list[str]
) -> AsyncIterator[str]:
    """Server-sent events of a reply whose first piece is there."""

    def event(choices: list[ChunkChoice], usage: Usage | None = None, warnings: list[str] | None = None) -> str:
        chunk = ChatChunk(**head, choices=choices, usage=usage, warnings=warnings or [])
        left_out = {
            name for name, is_told in (("usage", wants_usage), ("warnings", warnings is not None)) if not is_told
        }
        return f"data: {chunk.model_dump_json(exclude=left_out)}\n\n"

    async with aclosing(rest):
        yield event([ChunkChoice(delta=Delta(role="assistant", content=""))])
        if piece.text:
            yield event([ChunkChoice(delta=Delta(content=piece.text))])
        try:
            async for piece in rest:
                if piece.text:
                    yield event([ChunkChoice(delta=Delta(content=piece.text))])
        except TimeoutError:
            late = error_document(408, "The reply took too long and was given up; ask for less.", "request_timeout")
            yield f"data: {json.dumps(late)}\n\n"
            return
        yield event([ChunkChoice(delta=Delta(), finish_reason=piece.finish_reason)], warnings=warnings)
        if wants_usage:
            yield event([], _usage(piece))
        yield "data: [DONE]\n\n"


async def ask_of(asked: ChatRequest, service: Service) -> GenerationRequest:
    """What a request asks of the engine, within the limits."""
    limits = service.settings
    max_tokens = asked.max_completion_tokens or asked.max_tokens or limits.max_tokens
    service.check_most("max_tokens", max_tokens, limits.max_tokens)
    stop = tuple([asked.stop] if isinstance(asked.stop, str) else asked.stop or ())
    talk = await _conversation(asked.messages, asked.reasoning_effort or "none", service)
    seed = new_seed() if asked.seed is None else asked.seed
    return GenerationRequest(talk, max_tokens, asked.temperature or 0.0, seed, stop)


async def warnings_of(asked: ChatRequest, ask: GenerationRequest, service: Service) -> list[str]:
    """What to doubt about the conversation's picture and the words of its last user message."""
    said = [_parts(message)[0] for message in asked.messages if message.role == "user"]
    about_words = service.input_check.text_warnings(said[-1]) if said else []
    return [*await service.picture_warnings(ask.conversation.picture), *about_words]


async def _conversation(messages: Sequence[Message], effort: str, service: Service) -> Conversation:
    """Turns of user and assistant. What the system says goes before the first user text, since the model knows no system."""
    turns: list[tuple[str, str]] = []
    asked, texts, urls = "", list[str](), list[str]()
    for message in messages:
        text, pictures = _parts(message)
        texts.append(text)
        urls += pictures
        if message.role != "assistant":
            asked = f"{asked}\n{text}" if asked else text
        elif marks := _MARKS.search(text):
            raise UserError(f"An assistant's message holds {marks[0]}, which only the model writes; leave it out.")
        elif asked:
            turns.append((asked, text))
            asked = ""
        else:
            raise UserError("An assistant's message answers nothing; put a user's message before it.")
    if not asked and not urls:
        raise UserError("There is nothing to reply to; end with a user's message that holds words or a picture.")
    if len(urls) > 1:
        raise UserError(f"The conversation has {len(urls)} pictures; this model looks at one.")
    prompts.check_text(
        "conversation", "\n".join(texts).strip() or prompts.CAPTION_REQUEST, service.settings.max_characters
    )
    asked = _REASONED.get(effort, str)(asked or prompts.CAPTION_REQUEST)
    return Conversation((*turns, (asked, "")), await service.picture(urls[0]) if urls else None)


def _parts(message: Message) -> tuple[str, list[str]]:
    """The text of a message, and the addresses of its pictures."""
    if isinstance(message.content, str):
        return message.content, []
    texts = [part.text for part in message.content if not isinstance(part, ImagePart)]
    return "\n".join(texts), [part.image_url.url for part in message.content if isinstance(part, ImagePart)]


def _usage(last: TokenChunk) -> Usage:
    return Usage(
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.reply_tokens,
        total_tokens=last.prompt_tokens + last.reply_tokens,
    )
