"""What all routes share: the engine, the limits, and how requests become work."""

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
from latentbridge.serving.api_errors import ApiError
from latentbridge.serving.engine.engine import Engine
from latentbridge.serving.engine.jobs import GenerateJob
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
    started: int = field(default_factory=lambda: now())

    # --- checks ---

    def check_model(self, name: str | None) -> None:
        """Refuses the name of a model that is not here."""
        if name not in (None, self.settings.model_name):
            raise ApiError(
                404, f"There is no model {name!r}; this server has {self.settings.model_name!r}.", "model_not_found"
            )

    def check_most(self, name: str, value: int, most: int) -> None:
        """Refuses a number above its limit."""
        if value > most:
            raise UserError(f"{name} is {value}; {most} is the most this server takes on for one request.")

    @property
    def input_check(self) -> InputCheck:
        """What tells inputs unlike the model's training data; it needs no weights, so it waits for no worker."""
        return self.engine.model.input_check

    async def picture_warnings(self, picture: Picture | None) -> list[str]:
        """Warnings about a picture, if there is one."""
        return [] if picture is None else await asyncio.to_thread(self.input_check.picture_warnings, picture)

    # --- from requests to what the model takes ---

    async def picture(self, url: str) -> Picture:
        """The picture in a data URL, or at an address where those may be asked, at the model's size."""
        return await self.opened(await picture_bytes(url, self.fetching))

    async def picture_to_keep(self, url: str) -> tuple[Picture, bytes]:
        """The same picture, and a thumbnail of it for an index."""

        def both() -> tuple[Picture, bytes]:
            picture = open_picture(data, self.settings.max_megapixels)
            return self.engine.model.fit(picture), encode_thumbnail(picture)

        data = await picture_bytes(url, self.fetching)
        return await asyncio.to_thread(both)

    async def opened(self, data: bytes) -> Picture:
        """The picture in a file's bytes, at the model's size."""
        return await asyncio.to_thread(self.engine.model.fit, await self.source(data))

    async def source(self, data: bytes) -> Picture:
        """The picture in a file's bytes, at its own size."""
        return await asyncio.to_thread(open_picture, data, self.settings.max_megapixels)

    async def description(self, prompt: str, seed: int) -> str:
        """The full description the model draws for a prompt; `Model.rewrite` for one of many."""
        limit = self.engine.model.config.text_length + 4
        talk = Conversation(((prompts.draw_request(prompt), ""),))
        reply = await self.engine.reply(GenerationRequest(talk, limit, temperature=0.3, seed=seed, purpose="rewrite"))
        return prompts.unwrap_description(reply)

    async def told(self, picture: Picture, request: str, max_tokens: int = 128) -> str:
        """What the model says of a picture, greedy."""
        return await self.engine.reply(GenerationRequest(Conversation(((request, ""),), picture), max_tokens))

    async def drawn(self, description: str, seed: int, steps: int, guidance: float = 2.5) -> Picture:
        """A picture of a full description."""
        return await self.engine.do(GenerateJob(description, seed, steps, guidance))

    # --- while a request is in the service ---

    async def answer(self, request: Request, work: Callable[[], Awaitable[T]]) -> T:
        """The result of work that has a place in the engine, within the time limit; dropped once the client hangs up."""
        with self.engine.place():
            async with asyncio.timeout(self.settings.request_timeout_s):
                return await self.unless_gone(request, work())

    async def unless_gone(self, request: Request, work: Awaitable[T]) -> T:
        """The result of work that is dropped as soon as the client hangs up; the request's body has been read."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_hung_up(request))
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ApiError(499, "The client hung up.", "client_closed_request")
            return task.result()
        finally:
            task.cancel()
            gone.cancel()

    async def pieces(self, ask: GenerationRequest) -> AsyncGenerator[TokenChunk]:
        """A reply as it is written, with a place in the engine; raises TimeoutError once it has taken too long."""
        until = time.monotonic() + self.settings.request_timeout_s
        with self.engine.place():
            async with aclosing(self.engine.pieces(ask)) as pieces:
                while True:
                    try:
                        piece = await asyncio.wait_for(anext(pieces), until - time.monotonic())
                    except StopAsyncIteration:
                        return
                    yield piece


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def service_of(request: Request) -> Service:
    """The service of the app that serves a request; async, for FastAPI would start a thread's work to call another."""
    return request.app.state.service


TheService = Annotated[Service, Depends(service_of)]


def new_seed() -> int:
    """A seed for who brings none; answers tell it."""
    return secrets.randbits(31)


def png(picture: Picture) -> str:
    """A picture as base64 of a PNG."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def now() -> int:
    """Seconds since 1970, as OpenAI stamps answers."""
    return int(time.time())
