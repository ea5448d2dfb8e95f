"""The middleware in front of all routes: authentication, origin checks, rate limits, and limits of size and time.

Plain ASGI, since Starlette's BaseHTTPMiddleware buffers streams, and in front of the routes, so that an upload without a
key is rejected unread. Routes find `request.state.owner` and `request.state.charge(cost)`.
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

ANONYMOUS = "nobody"
"""The owner of requests to a server without keys."""
OPEN_PATHS = ("/healthz", "/readyz")
"""Paths that need no key, for health probes."""
KINDS = {
    "/v1/chat/completions": "chat",
    "/v1/images/generations": "draw",
    "/v1/images/edits": "edit",
    "/v1/embeddings": "embed",
    "/v1/search": "search",
    "/v1/index": "index",
    "/v1/loopback": "loopback",
}
"""Kinds of request by path prefix; all others are `OTHER`."""
OTHER = "other"


@dataclass(frozen=True)
class Limits:
    """Limits of one request."""

    body_bytes: int = 32 << 20
    receive_s: float = 30.0
    """From the first byte to the last."""
    headers: int = 64
    header_bytes: int = 16 << 10
    """Names and values of all headers, and the path."""
    form_fields: int = 32
    form_files: int = 64
    """The size of the body limits theirs."""
    form_field_bytes: int = 64 << 10


@dataclass
class Guard:
    """The middleware. Each of `_CHECKS` raises an ApiError or passes; the body is limited while it is received."""

    app: ASGIApp
    keys: Keys = field(default_factory=Keys)
    rates: Rates = field(default_factory=Rates)
    limits: Limits = Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        started = False

        async def tracking_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] in ("http.response.start", "websocket.accept")
            await send(message)

        try:
            for check in _CHECKS:
                check(self, scope, Headers(scope=scope))
            await self.app(scope, self._limited(receive), tracking_send)
        except ApiError as error:
            if started:
                raise
            if scope["type"] == "http":
                await error.response()(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": error.detail})

    def _limited(self, receive: Receive) -> Receive:
        """Return `receive` with limits on the size and time of the body; it waits without limit after the body."""
        loop = asyncio.get_running_loop()
        deadline, total, complete = loop.time() + self.limits.receive_s, 0, False

        async def limited() -> Message:
            nonlocal total, complete
            try:
                async with asyncio.timeout_at(None if complete else deadline):
                    message = await receive()
            except TimeoutError:
                slow = f"The body was not complete after {self.limits.receive_s:g} s; send it faster, or less."
                raise ApiError(408, slow, "request_timeout", {"Connection": "close"}) from None
            complete = complete or message["type"] != "http.request" or not message.get("more_body", False)
            total += len(message.get("body", b""))
            if total > self.limits.body_bytes:
                raise self.too_large()
            return message

        return limited

    def too_large(self) -> ApiError:
        """Return the error for a body above the limit."""
        return ApiError(413, f"The body has more than {self.limits.body_bytes:,} bytes; send less.", "body_too_large")


def _check_headers(guard: Guard, scope: Scope, headers: Headers) -> None:
    size = len(scope.get("raw_path", b"")) + len(scope["query_string"]) + sum(len(k) + len(v) for k, v in headers.raw)
    if len(headers) > guard.limits.headers or size > guard.limits.header_bytes:
        limit = f"{guard.limits.headers} headers and {guard.limits.header_bytes:,} bytes of them"
        raise ApiError(431, f"{limit} are the limit; send fewer.", "headers_too_large")


def _check_origin(guard: Guard, scope: Scope, headers: Headers) -> None:
    """Reject requests of other sites' pages in a local browser, and those under a foreign host name (DNS rebinding)."""
    host = headers.get("host", "")
    origin = headers.get("origin", "")
    writes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
    if (origin and origin.partition("://")[2] != host) or (writes and headers.get("sec-fetch-site") == "cross-site"):
        raise ApiError(403, "A page of another site sent this; use the server's own page.", "foreign_origin")
    if host and not guard.keys and not is_loopback(_hostname(host)):
        raise ApiError(403, "A server without keys answers to 127.0.0.1 and localhost only; set a key.", "foreign_host")


def _authenticate(guard: Guard, scope: Scope, headers: Headers) -> None:
    owner = guard.keys.owner(_key(headers)) if guard.keys else ANONYMOUS
    if owner is None and scope["path"] not in OPEN_PATHS:
        # only Basic: beside another scheme Chromium ignores it, and shows no login dialogue
        challenge = {"WWW-Authenticate": 'Basic realm="LatentBridge"'}
        message = "The key is missing or wrong; send it as Authorization: Bearer KEY."
        raise ApiError(401, message, "invalid_api_key", challenge)
    scope.setdefault("state", {})["owner"] = owner or ANONYMOUS


def _limit_rate(guard: Guard, scope: Scope, headers: Headers) -> None:
    owner, kind = scope["state"]["owner"], kind_of(scope["path"])
    guard.rates.request(owner, kind)
    scope["state"]["charge"] = partial(guard.rates.charge, owner, kind)


def _check_body(guard: Guard, scope: Scope, headers: Headers) -> None:
    if headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "The body is compressed; send it uncompressed.", "compressed_body")
    if int(headers.get("content-length", "0")) > guard.limits.body_bytes:
        raise guard.too_large()


_CHECKS: tuple[Callable[[Guard, Scope, Headers], None], ...] = (
    _check_headers,
    _check_origin,
    _authenticate,
    _limit_rate,
    _check_body,
)


def kind_of(path: str) -> str:
    """Return the kind of request of a path."""
    return next((kind for prefix, kind in KINDS.items() if path == prefix or path.startswith(f"{prefix}/")), OTHER)


def _hostname(host: str) -> str:
    """Return a Host header without its port; empty if it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _key(headers: Headers) -> str:
    """Return the key of a request: a bearer token, as OpenAI's clients send it, or the password of a browser's login."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            pass
    return ""


class QueryStringFilter(logging.Filter):
    """A filter that removes query strings from uvicorn's access log, since people put keys there."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True for every record, after cutting it."""
        if isinstance(record.args, tuple):
            record.args = tuple(arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args)
        return True
