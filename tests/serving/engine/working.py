"""A running engine, and helpers to send it work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from latentbridge.models.options import ReplyOptions
from latentbridge.serving.engine.engine import Engine
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.engine.text_generation import GenerationRequest
from latentbridge.serving.settings import Settings
from latentbridge.types import Conversation, Picture

LONG = 400
"""Steps of a drawing that no test waits for."""


@asynccontextmanager
async def running_engine(model: Any, **settings: Any) -> AsyncIterator[Engine]:
    engine = Engine(model, Settings(**settings), Metrics())
    engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def question(
    text: str, picture: Picture | None = None, max_tokens: int = 40, seed: int = 0, **options: Any
) -> GenerationRequest:
    conversation = Conversation.with_picture(((text, ""),), picture)
    return GenerationRequest(conversation, ReplyOptions(max_tokens, **options), seed)


async def reply_text(engine: Engine, request: GenerationRequest) -> str:
    return "".join(chunk.text for chunk in await engine.complete(request))


async def answer(engine: Engine, work: Any) -> Any:
    """Return the tokens of a reply, a vector, or a picture."""
    if isinstance(work, GenerationRequest):
        return [chunk.token for chunk in await engine.complete(work)]
    result = await engine.run(work)
    return getattr(result, "vector", result)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 200))  # pyright: ignore


def counted(engine: Engine, name: str, **labels: str) -> float:
    return engine.metrics.registry.get_sample_value(f"latentbridge_{name}", labels) or 0.0
