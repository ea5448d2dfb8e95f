"""An engine at work, and what tests ask of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.engine.engine import Engine
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.engine.text_generation import GenerationRequest, TokenChunk
from latentbridge.serving.settings import Settings
from latentbridge.types import Conversation, Picture

LONG = 400
"""Steps of a drawing that no test waits for."""


@asynccontextmanager
async def working(model: OmniBridge, **settings: Any) -> AsyncIterator[Engine]:
    engine = Engine(model, Settings(**settings), Metrics())
    engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def asked(text: str, picture: Picture | None = None, max_tokens: int = 40, **how: Any) -> GenerationRequest:
    return GenerationRequest(Conversation(((text, ""),), picture), max_tokens, **how)


async def all_of(engine: Engine, ask: GenerationRequest) -> list[TokenChunk]:
    async with aclosing(engine.pieces(ask)) as pieces:
        return [piece async for piece in pieces]


async def answer(engine: Engine, work: Any) -> Any:
    """The tokens of a reply, a vector, or a picture."""
    if isinstance(work, GenerationRequest):
        return [piece.token for piece in await all_of(engine, work)]
    result = await engine.do(work)
    return getattr(result, "vector", result)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 200))  # pyright: ignore


def counted(engine: Engine, name: str, **labels: str) -> float:
    return engine.metrics.registry.get_sample_value(f"latentbridge_{name}", labels) or 0.0
