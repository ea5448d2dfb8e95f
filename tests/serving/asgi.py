"""A client that calls an ASGI app in this process, message by message."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Message


def ask(
    app: ASGIApp,
    path: str = "/",
    *,
    method: str = "POST",
    headers: Sequence[tuple[str, str]] = (("Host", "localhost:8000"),),
    chunks: Sequence[bytes] = (b"",),
    pause_s: float = 0.0,
    kind: str = "http",
) -> list[Message]:
    """Return the messages of the app for a request with a body in `chunks`, with a pause before each; a last chunk that is
    not empty is repeated forever."""
    scope: dict[str, Any] = {
        "type": kind,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "method": method,
    }
    scope["headers"] = [(name.lower().encode(), value.encode()) for name, value in headers]
    sent: list[Message] = []
    waiting = list(chunks)

    async def receive() -> Message:
        await asyncio.sleep(pause_s)
        body = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return {"type": "http.request", "body": body, "more_body": len(waiting) > 1 or waiting[0] != b""}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


def status(sent: Sequence[Message]) -> int:
    """Return the status of a response."""
    return sent[0]["status"]


def header(sent: Sequence[Message], name: str) -> str | None:
    """Return a header of a response."""
    return {key.decode().lower(): value.decode() for key, value in sent[0]["headers"]}.get(name)
