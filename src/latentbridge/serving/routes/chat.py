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
from latentbridge.serving.guard.fetch import picture_bytes
from latentbridge.serving.guard.json_bodies import JsonRoute
from latentbridge.serving.service import Service, ServiceDep, seed_or_random, unix_time
from latentbridge.types import Conversation, Picture

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
    model, settings = service.engine.model, service.settings
    most = settings.max_tokens or model.context_length
    max_tokens = body.max_completion_tokens or body.max_tokens or settings.max_tokens
    if settings.strict:
        service.check_limit("max_tokens", max_tokens or 0, most)
    stop = tuple([body.stop] if isinstance(body.stop, str) else body.stop or ())
    conversation = await _conversation(body.messages, body.reasoning_effort or "none", service)
    top_k = None if body.top_k is None else max(0, body.top_k)
    changes = {"temperature": body.temperature, "top_p": body.top_p, "top_k": top_k}
    changes["max_tokens"] = None if max_tokens is None else min(max_tokens, most)
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
    prompts.check_text(
        "conversation", "\n".join(texts).strip() or prompts.CAPTION_REQUEST, service.settings.max_characters
    )
    turns.append((_with_effort(service, question or prompts.CAPTION_REQUEST, effort), ""))
    return Conversation(tuple(turns), await _pictures(urls_by_turn, service), system=system)


def _with_effort(service: Service, question: str, effort: str) -> str:
    """Return the question with the request to reason that the effort asks for."""
    if effort in ("low", "medium"):
        return service.engine.model.templates.with_reasoning(question)
    return prompts.with_long_reasoning(question) if effort in ("high", "xhigh", "max") else question


async def _pictures(urls_by_turn: Sequence[Sequence[str]], service: Service) -> tuple[tuple[Picture, ...], ...]:
    """Return the pictures of each turn, each decoded once.

    Clients send the pictures of earlier turns again, so a picture counts once, and a model with a limited number of
    pictures gets it in its first turn alone.
    """
    most = service.engine.model.max_pictures
    service.check_limit("pictures", sum(map(len, urls_by_turn)), service.settings.max_items)
    files: dict[str, bytes] = {}
    for url in {url: None for urls in urls_by_turn for url in urls}:
        files[url] = await picture_bytes(url, service.fetching)
        if most is not None and len(set(files.values())) > most:
            raise UserError(
                f"The conversation has more than {most} different pictures; this model looks at {most} at most."
            )
    pictures = {file: await service.decode_picture(file) for file in dict.fromkeys(files.values())}
    turns, seen = list[tuple[Picture, ...]](), set[bytes]()
    for urls in urls_by_turn:
        shown = [files[url] for url in urls]
        if most is not None:
            shown = [file for file in dict.fromkeys(shown) if file not in seen]
        seen.update(shown)
        turns.append(tuple(pictures[file] for file in shown))
    return tuple(turns) if seen else ()


def _parts(message: schemas.InputMessage | schemas.AssistantMessage) -> tuple[str, list[str]]:
    """Return the text of a message and the URLs of its pictures."""
    content = message.content
    if content is None:
        content = (isinstance(message, schemas.AssistantMessage) and message.refusal) or ""
    if isinstance(content, str):
        return content, []
    texts, urls = list[str](), list[str]()
    for part in content:
        if isinstance(part, schemas.ImagePart):
            urls.append(part.url)
        else:
            texts.append(part.text if isinstance(part, schemas.TextPart) else part.refusal)
    return "\n".join(texts), urls


def _usage(last: TokenChunk) -> schemas.Usage:
    return schemas.Usage(
        prompt_tokens=last.prompt_tokens,
        completion_tokens=last.reply_tokens,
        total_tokens=last.prompt_tokens + last.reply_tokens,
    )
