"""The service that all routes share: engine, limits, indexes, and the steps from a request to its response."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from io import BytesIO
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from PIL import Image

from latentbridge import prompts
from latentbridge.data.picture_sources import encode_thumbnail
from latentbridge.errors import UserError
from latentbridge.images import open_picture
from latentbridge.models.input_check import InputCheck
from latentbridge.models.options import ReplyOptions
from latentbridge.models.unified import REWRITE_PURPOSE, REWRITE_TEMPERATURE, rewrite_conversation
from latentbridge.serving.api_errors import ApiError
from latentbridge.serving.engine.engine import Engine
from latentbridge.serving.engine.text_generation import GenerationRequest, TokenChunk
from latentbridge.serving.guard.fetch import Fetching, picture_bytes
from latentbridge.serving.index_registry import IndexRegistry
from latentbridge.serving.settings import Settings
from latentbridge.types import Conversation, Picture

T = TypeVar("T")


@dataclass(frozen=True)
class Service:
    """Engine, limits and indexes of one app."""

    engine: Engine
    settings: Settings
    fetching: Fetching
    index_registry: IndexRegistry
    started: int = field(default_factory=lambda: unix_time())

    # --- checks ---

    def check_model(self, name: str | None) -> None:
        """Raise a 404 if the name is not that of the model."""
        if name not in (None, self.settings.model_name):
            raise ApiError(
                404, f"There is no model {name!r}; this server has {self.settings.model_name!r}.", "model_not_found"
            )

    def check_limit(self, name: str, value: int, maximum: int) -> None:
        """Raise UserError if a number is above its limit."""
        if value > maximum:
            raise UserError(f"{name} is {value}; the most this server accepts in one request is {maximum}.")

    @property
    def input_check(self) -> InputCheck:
        """The check for inputs unlike the training data; it needs no weights, so no worker."""
        return self.engine.model.input_check

    async def picture_warnings(self, picture: Picture | None) -> list[str]:
        """Return warnings about a picture, if there is one."""
        return [] if picture is None else await asyncio.to_thread(self.input_check.picture_warnings, picture)

    # --- pictures ---

    async def fetch_picture(self, url: str) -> Picture:
        """Return the picture of a data URL, or of an address from which fetching is allowed, at the model's size."""
        return await self.decode_picture(await picture_bytes(url, self.fetching))

    async def fetch_with_thumbnail(self, url: str) -> tuple[Picture, bytes]:
        """Return the picture of a URL at the model's size, and its thumbnail for an index."""

        def decode() -> tuple[Picture, bytes]:
            picture = open_picture(data, self.settings.max_megapixels)
            return self.engine.model.fit(picture), encode_thumbnail(picture)

        data = await picture_bytes(url, self.fetching)
        return await asyncio.to_thread(decode)

    async def decode_picture(self, data: bytes) -> Picture:
        """Return the picture in a file's bytes, at the model's size."""
        return await asyncio.to_thread(self.engine.model.fit, await self.decode_full_size(data))

    async def decode_full_size(self, data: bytes) -> Picture:
        """Return the picture in a file's bytes, at its own size."""
        return await asyncio.to_thread(open_picture, data, self.settings.max_megapixels)

    # --- text ---

    async def describe_prompt(self, prompt: str, seed: int) -> str:
        """Return the full description that the model draws for a prompt; see `UnifiedModel.rewrite`."""
        limit = self.engine.model.description_tokens
        if not limit:
            return prompt
        conversation = rewrite_conversation(self.engine.model, prompt)
        options = ReplyOptions(limit, REWRITE_TEMPERATURE)
        request = GenerationRequest(conversation, options, seed, purpose=REWRITE_PURPOSE)
        return prompts.unwrap_description(await self._text(request))

    async def ask(self, picture: Picture, question: str, max_tokens: int = 128) -> str:
        """Return the greedy reply to a question about a picture."""
        conversation = Conversation.with_picture(((question, ""),), picture)
        return await self._text(GenerationRequest(conversation, ReplyOptions(max_tokens)))

    async def _text(self, request: GenerationRequest) -> str:
        return "".join(chunk.text for chunk in await self.engine.complete(request))

    # --- the lifetime of a request ---

    async def run(self, request: Request, work: Callable[[], Awaitable[T]]) -> T:
        """Return the result of work counted as one request; limited in time, and cancelled if the client disconnects."""
        with self.engine.admit():
            async with asyncio.timeout(self.settings.request_timeout_s):
                return await self.cancel_on_disconnect(request, work())

    async def cancel_on_disconnect(self, request: Request, work: Awaitable[T]) -> T:
        """Return the result of work, cancelled if the client disconnects; the request's body must have been read."""
        task = asyncio.ensure_future(work)
        disconnect = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ApiError(499, "The client closed the connection.", "client_closed_request")
            return task.result()
        finally:
            task.cancel()
            disconnect.cancel()

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[TokenChunk]:
        """Yield the chunks of a reply, counted as one request; raises TimeoutError after the time limit."""
        deadline = time.monotonic() + self.settings.request_timeout_s
        with self.engine.admit():
            async with aclosing(self.engine.stream(request)) as chunks:
                while True:
                    try:
                        chunk = await asyncio.wait_for(anext(chunks), deadline - time.monotonic())
                    except StopAsyncIteration:
                        return
                    yield chunk


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def get_service(request: Request) -> Service:
    """Return the service of the app; async, since FastAPI would call a plain function in a thread."""
    return request.app.state.service


ServiceDep = Annotated[Service, Depends(get_service)]


def seed_or_random(seed: int | None) -> int:
    """Return the seed of a request, a new one if it has none."""
    return secrets.randbits(31) if seed is None else seed


def png_base64(picture: Picture) -> str:
    """Return a picture as base64 of a PNG."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def unix_time() -> int:
    """Return the seconds since 1970, the unit of OpenAI's timestamps."""
    return int(time.time())
