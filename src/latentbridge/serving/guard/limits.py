"""What stands before every route: who asks, from where, how often, how much and how slowly.

Plain ASGI, since Starlette's BaseHTTPMiddleware holds back streams; and before the routes, so that a stranger's upload is
refused unread. A route sees only requests that passed, with `request.state.owner` and `request.state.charge(cost)`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentbridge.serving.api_errors import ApiError
from latentbridge.serving.guard.keys import Keys, is_loopback
from latentbridge.serving.guard.rates import Rates

NOBODY = "nobody"
"""Who asks where there are no keys."""
OPEN_PATHS = ("/healthz", "/readyz")
"""What answers without a key: whoever starts the server asks there whether it lives."""
KINDS = {
    "/v1/chat/completions": "chat",
    "/v1/images/generations": "draw",
    "/v1/images/edits": "edit",
    "/v1/embeddings": "embed",
    "/v1/search": "search",
    "/v1/index": "index",
    "/v1/loopback": "loopback",
}
"""The kind of work behind a path and what lies under it; all else is `OTHER`."""
OTHER = "other"


@dataclass(frozen=True)
class Limits:
    """The most a request may be."""

    body_bytes: int = 32 << 20
    receive_s: float = 30.0
    """From its first byte until it is here whole, however slowly it comes."""
    headers: int = 64
    header_bytes: int = 16 << 10
    """Names and values of all headers and the path together."""
    form_fields: int = 32
    form_files: int = 64
    """Their sizes are bounded by the body they come in."""
    form_field_bytes: int = 64 << 10


@dataclass
class Guard:
    """The middleware. Each of `_checks` raises a Refusal or lets the request pass; the body is counted and timed on its way."""

    app: ASGIApp
    keys: Keys = field(default_factory=Keys)
    rates: Rates = field(default_factory=Rates)
    limits: Limits = Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        started = False

        async def noting_start(message: Message) -> None:
            nonlocal started
            started = started or message["type"] in ("http.response.start", "websocket.accept")
            await send(message)

        try:
            for check in _CHECKS:
                check(self, scope, Headers(scope=scope))
            await self.app(scope, self._bounded(receive), noting_start)
        except ApiError as refusal:
            if started:
                raise
            if scope["type"] == "http":
                await refusal.response()(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": refusal.detail})

    def _bounded(self, receive: Receive) -> Receive:
        """`receive`, for as many bytes and seconds as a body may take; after the body it waits for as long as it must."""
        loop = asyncio.get_running_loop()
        until, total, whole = loop.time() + self.limits.receive_s, 0, False

        async def bounded() -> Message:
            nonlocal total, whole
            try:
                async with asyncio.timeout_at(None if whole else until):
                    message = await receive()
            except TimeoutError:
                slow = f"The body was not here whole after {self.limits.receive_s:g} s; send it faster, or less."
                raise ApiError(408, slow, "request_timeout", {"Connection": "close"}) from None
            whole = whole or message["type"] != "http.request" or not message.get("more_body", False)
            total += len(message.get("body", b""))
            if total > self.limits.body_bytes:
                raise self.too_large()
            return message

        return bounded

    def too_large(self) -> ApiError:
        """The refusal of a body above the limit."""
        return ApiError(413, f"The body has more than {self.limits.body_bytes:,} bytes; send less.", "body_too_large")


def _refuse_flood(guard: Guard, scope: Scope, headers: Headers) -> None:
    size = len(scope.get("raw_path", b"")) + len(scope["query_string"]) + sum(len(k) + len(v) for k, v in headers.raw)
    if len(headers) > guard.limits.headers or size > guard.limits.header_bytes:
        most = f"{guard.limits.headers} headers and {guard.limits.header_bytes:,} bytes of them"
        raise ApiError(431, f"{most} are the most; send fewer.", "headers_too_large")


def _refuse_foreign_pages(guard: Guard, scope: Scope, headers: Headers) -> None:
    """A page that a browser on this machine shows must not use the server, nor reach it by a name of its own (DNS rebinding)."""
    host = headers.get("host", "")
    origin = headers.get("origin", "")
    writes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
    if (origin and origin.partition("://")[2] != host) or (writes and headers.get("sec-fetch-site") == "cross-site"):
        raise ApiError(403, "A page of another site sent this; use the server's own page.", "foreign_origin")
    if host and not guard.keys and not is_loopback(_hostname(host)):
        raise ApiError(403, "A server without keys answers to 127.0.0.1 and localhost only; set a key.", "foreign_host")


def _refuse_strangers(guard: Guard, scope: Scope, headers: Headers) -> None:
    owner = guard.keys.owner(_presented(headers)) if guard.keys else NOBODY
    if owner is None and scope["path"] not in OPEN_PATHS:
        # Basic alone: Chromium overlooks it beside another way, and asks nobody for the key.
        ways = {"WWW-Authenticate": 'Basic realm="LatentBridge"'}
        raise ApiError(
            401, "The key is missing or wrong; send it as Authorization: Bearer KEY.", "invalid_api_key", ways
        )
    scope.setdefault("state", {})["owner"] = owner or NOBODY


def _refuse_haste(guard: Guard, scope: Scope, headers: Headers) -> None:
    owner, kind = scope["state"]["owner"], kind_of(scope["path"])
    guard.rates.request(owner, kind)
    scope["state"]["charge"] = partial(guard.rates.charge, owner, kind)


def _refuse_bodies(guard: Guard, scope: Scope, headers: Headers) -> None:
    if headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "The body is compressed; send it as it is.", "compressed_body")
    if int(headers.get("content-length", "0")) > guard.limits.body_bytes:
        raise guard.too_large()


_CHECKS: tuple[Callable[[Guard, Scope, Headers], None], ...] = (
    _refuse_flood,
    _refuse_foreign_pages,
    _refuse_strangers,
    _refuse_haste,
    _refuse_bodies,
)


def kind_of(path: str) -> str:
    """The kind of work that a path asks for."""
    return next((kind for start, kind in KINDS.items() if path == start or path.startswith(f"{start}/")), OTHER)


def _hostname(host: str) -> str:
    """A Host header without its port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _presented(headers: Headers) -> str:
    """The key a request brings: as OpenAI's clients do, or as the password that a browser asks for."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            pass
    return ""


class WithoutQueries(logging.Filter):
    """Keeps what stands behind a `?` out of uvicorn's access log, for people put keys there."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass, cut."""
        if isinstance(record.args, tuple):
            record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
        return True
