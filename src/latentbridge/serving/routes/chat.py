"""POST /v1/chat/completions: replies to conversations, whole or streamed."""

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
from latentbridge.models.options import with_options
from latentbridge.serving import schemas
from latentbridge.serving.api_errors import error_document
from latentbridge.serving.engine.text_generation import GenerationRequest, TokenChunk
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.service import Service, ServiceDep, seed_or_random, unix_time
from latentbridge.types import Conversation

router = APIRouter(route_class=JsonRoute)
_STREAM: dict[int | str, Any] = {
    200: {
        "description": "The reply; with `stream`, events of ChatCompletionChunk that end with [DONE].",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
_SPECIAL_TOKEN = re.compile(r"<\|[a-z_]+\|>")
"""Special tokens of the language model; user text is never tokenized to one, but an assistant message is."""


@router.post("/v1/chat/completions", response_model=schemas.ChatCompletion, responses=_STREAM, operation_id="chat")
async def chat(body: schemas.ChatCompletionRequest, request: Request, service: ServiceDep) -> Any:
    """Reply to a conversation, whose pictures are data URLs."""
    service.check_model(body.model)
    service.engine.model.require("understand")
    generation = await generation_request(body, service)
    request.state.charge(generation.options.max_tokens)
    warnings = await chat_warnings(body, generation, service)
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": unix_time(), "model": service.settings.model_name}
    if not body.stream:
        chunks = await service.run(request, partial(service.engine.complete, generation))
        message = schemas.ReplyMessage(content="".join(chunk.text for chunk in chunks))
        choice = schemas.Choice(message=message, finish_reason=chunks[-1].finish_reason or "stop")
        return schemas.ChatCompletion(**head, choices=[choice], usage=_usage(chunks[-1]), warnings=warnings)
    chunks = service.stream(generation)
    first = await service.cancel_on_disconnect(request, anext(chunks))  # errors up to here get a status of their own
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    return StreamingResponse(_events(head, first, chunks, include_usage, warnings), media_type="text/event-stream")


async def _events(
    head: dict[str, Any], chunk: TokenChunk, rest: AsyncGenerator[TokenChunk], include_usage: bool, warnings: list[str]
) -> AsyncIterator[str]:
    """Yield the server-sent events of a reply, given its first chunk."""

    def event(
        choices: list[schemas.ChunkChoice], usage: schemas.Usage | None = None, warnings: list[str] | None = None
    ) -> str:
        chunk = schemas.ChatCompletionChunk(**head, choices=choices, usage=usage, warnings=warnings or [])
        excluded = {
            name for name, included in (("usage", include_usage), ("warnings", warnings is not None)) if not included
        }
        return f"data: {chunk.model_dump_json(exclude=excluded)}\n\n"

    async with aclosing(rest):
        yield event([schemas.ChunkChoice(delta=schemas.Delta(role="assistant", content=""))])
        if chunk.text:
            yield event([schemas.ChunkChoice(delta=schemas.Delta(content=chunk.text))])
        try:
            async for chunk in rest:
                if chunk.text:
                    yield event([schemas.ChunkChoice(delta=schemas.Delta(content=chunk.text))])
        except TimeoutError:
            error = error_document(408, "The reply took too long and was cancelled; ask for less.", "request_timeout")
            yield f"data: {json.dumps(error)}\n\n"
            return
        yield event([schemas.ChunkChoice(delta=schemas.Delta(), finish_reason=chunk.finish_reason)], warnings=warnings)
        if include_usage:
            yield event([], _usage(chunk))
        yield "data: [DONE]\n\n"


async def generation_request(body: schemas.ChatCompletionRequest, service: Service) -> GenerationRequest:
    """Return the engine's request for a request body, within the limits."""
    model, limit = service.engine.model, service.settings.max_tokens
    max_tokens = body.max_completion_tokens or body.max_tokens or limit
    service.check_limit("max_tokens", max_tokens or 0, limit or model.context_length)
    stop = tuple([body.stop] if isinstance(body.stop, str) else body.stop or ())
    conversation = await _conversation(body.messages, body.reasoning_effort or "none", service)
    changes = {"max_tokens": max_tokens, "temperature": body.temperature, "top_p": body.top_p, "top_k": body.top_k}
    options = with_options(model.reply_options, changes | {"stop": stop})
    return GenerationRequest(conversation, options, seed_or_random(body.seed))


async def chat_warnings(
    body: schemas.ChatCompletionRequest, generation: GenerationRequest, service: Service
) -> list[str]:
    """Return warnings about the conversation's pictures and the words of its last user message."""
    texts = [_parts(message)[0] for message in body.messages if message.role == "user"]
    text_warnings = service.input_check.text_warnings(texts[-1]) if texts else []
    about_pictures = [await service.picture_warnings(each) for each in generation.conversation.all_pictures]
    return [*dict.fromkeys(warning for each in about_pictures for warning in each), *text_warnings]


async def _conversation(messages: Sequence[schemas.Message], effort: str, service: Service) -> Conversation:
    """Return the turns of user and assistant, and the system message.

    For a model without a system role, and after the first turn, a system message goes before the next user text.
    """
    model = service.engine.model
    system: str | None = None
    turns, urls_by_turn = list[tuple[str, str]](), list[list[str]]([[]])
    question, texts = "", list[str]()
    for message in messages:
        text, urls = _parts(message)
        texts.append(text)
        urls_by_turn[-1] += urls
        is_system = message.role in ("system", "developer")
        if is_system and model.takes_system_message and not (turns or question):
            system = f"{system}\n{text}" if system else text
        elif message.role != "assistant":
            question = f"{question}\n{text}" if question else text
        elif token := _SPECIAL_TOKEN.search(text):
            raise UserError(f"An assistant's message contains {token[0]}, a special token of the model; leave it out.")
        elif question or urls_by_turn[-1]:
            turns.append((question, text))
            urls_by_turn.append([])
            question = ""
        else:
            raise UserError("An assistant's message answers nothing; put a user's message before it.")
    if not question and not any(urls_by_turn):
        raise UserError("There is nothing to reply to; end with a user's message that has text or a picture.")
    count = sum(map(len, urls_by_turn))
    if model.max_pictures is not None and count > model.max_pictures:
        raise UserError(f"The conversation has {count} pictures; this model looks at {model.max_pictures} at most.")
    service.check_limit("pictures", count, service.settings.max_inputs)
    prompts.check_text(
        "conversation", "\n".join(texts).strip() or prompts.CAPTION_REQUEST, service.settings.max_characters
    )
    turns.append((_with_effort(service, question or prompts.CAPTION_REQUEST, effort), ""))
    pictures = [tuple([await service.fetch_picture(url) for url in urls]) for urls in urls_by_turn]
    return Conversation(tuple(turns), tuple(pictures) if count else (), system=system)


def _with_effort(service: Service, question: str, effort: str) -> str:
    """Return the question with the request to reason that the effort asks for."""
    if effort in ("low", "medium"):
        return service.engine.model.templates.with_reasoning(question)
    return prompts.with_long_reasoning(question) if effort in ("high", "xhigh") else question


def _parts(message: schemas.Message) -> tuple[str, list[str]]:
    """Return the text of a message and the URLs of its pictures."""
    if isinstance(message.content, str):
        return message.content, []
    texts = [part.text for part in message.content if not isinstance(part, schemas.ImagePart)]
    return "\n".join(texts), [part.image_url.url for part in message.content if isinstance(part, schemas.ImagePart)]


def _usage(last: TokenChunk) -> schemas.Usage:
    return schemas.Usage(
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.reply_tokens,
        total_tokens=last.prompt_tokens + last.reply_tokens,
    )
