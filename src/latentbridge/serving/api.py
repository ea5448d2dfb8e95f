"""The HTTP API: `create_app` assembles routes, error handlers, middleware and the engine."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import latentbridge
from latentbridge.errors import StorageError, Unreachable, UserError
from latentbridge.models.unified import UnifiedModel
from latentbridge.serving.api_errors import ApiError, error_document, rate_limited
from latentbridge.serving.engine.engine import Engine, ServerBusy, ShuttingDown
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.guard.callers import RemoteCaller
from latentbridge.serving.guard.fetch import Fetching
from latentbridge.serving.guard.keys import Keys
from latentbridge.serving.guard.limits import Guard, Limits
from latentbridge.serving.guard.rates import Rates
from latentbridge.serving.index_registry import IndexRegistry
from latentbridge.serving.openapi import ERROR_RESPONSES, openapi
from latentbridge.serving.routes import chat, embeddings, images, indexes, loopback, state
from latentbridge.serving.service import Service
from latentbridge.serving.settings import Settings
from latentbridge.serving.tools import Tools, http_route

_log = logging.getLogger(__name__)
Handler = Callable[[Request, Any], Awaitable[JSONResponse]]


def create_app(
    model: UnifiedModel,
    settings: Settings | None = None,
    *,
    keys: Keys | None = None,
    rates: Rates | None = None,
    limits: Limits | None = None,
    fetching: Fetching | None = None,
) -> FastAPI:
    """Return the server's app for a model, which the engine modifies (`make_batch_invariant`).

    `app.state.service` is shared by the routes. `Guard` runs before them, and `CountResponses` counts its rejections too.
    """
    settings, limits, metrics = settings or Settings(), limits or Limits(), Metrics()
    index_registry = IndexRegistry(settings.indexes, model, settings.max_indexes)
    service = Service(Engine(model, settings, metrics), settings, fetching or Fetching(), index_registry)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.engine.start()
        async with tools.session_manager.run():
            yield
        await service.engine.close()
        index_registry.close()

    app = FastAPI(
        title="LatentBridge",
        version=latentbridge.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        form_limits={
            "max_fields": limits.form_fields,
            "max_files": limits.form_files,
            "max_part_size": limits.form_field_bytes,
        },
    )
    app.state.service = service
    for routes in (chat, images, embeddings, indexes, loopback, state):
        app.include_router(routes.router, responses=ERROR_RESPONSES)
    tools = Tools(app, RemoteCaller()).server()
    app.router.routes.append(http_route(tools, limits.body_bytes))
    app.openapi = cache(partial(openapi, app))
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(Guard, keys=keys or Keys(), rates=rates or Rates(), limits=limits)
    app.add_middleware(CountResponses, metrics=metrics)  # the last one added is the outermost
    return app


# --- error handlers ------------------------------------------------------------------------------


def _fixed(status: int, message: str, code: str, log: bool = False) -> Handler:
    """Return a handler whose message does not depend on the error; `log` writes the error to the log."""

    async def handle(_: Request, error: Exception) -> JSONResponse:
        if log:
            _log.error("%s", error)
        return ApiError(status, message, code).response()

    return handle


async def _api_error(_: Request, error: ApiError) -> JSONResponse:
    return error.response()


async def _user_error(_: Request, error: UserError) -> JSONResponse:
    return JSONResponse(error_document(400, str(error)), 400)


async def _server_busy(_: Request, error: ServerBusy) -> JSONResponse:
    return rate_limited(str(error), error.retry_after_s).response()


async def _http_error(_: Request, error: HTTPException) -> JSONResponse:
    message = str(error.detail)
    if error.status_code == 404:
        message = "There is no such route; /openapi.json lists the routes, and `serve --ui` adds a web page."
    return JSONResponse(error_document(error.status_code, message), error.status_code, error.headers)


async def _unexpected(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_document(500, "Something went wrong in the server; its log has the reason."), 500)


async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """Return one of pydantic's errors under the name of its field, without the input.

    For a union pydantic reports errors of every member; the most informative is the deepest that is no type error.
    """
    worst = max(error.errors(), key=lambda each: (not each["type"].endswith("_type"), len(each["loc"])))
    param = ".".join(_field_path(worst, error.body))[:100] or None
    message = "Input should be a file" if "UploadFile" in worst["msg"] else worst["msg"]
    if param is None and worst["type"] == "model_attributes_type":
        message = "The body is no JSON object; send one, with Content-Type: application/json."
    return JSONResponse(error_document(400, f"{param}: {message}" if param else message, worst["type"], param), 400)


def _field_path(error: dict[str, Any], body: Any) -> Iterator[str]:
    """Yield the names that lead to the error in the body, without the names that pydantic gives to members of unions."""
    names, unknown = [name for name in error["loc"] if name != "body"], body is None
    for depth, name in enumerate(names):
        try:
            body = None if unknown else body[name]
        except (KeyError, IndexError, TypeError):
            if error["type"] != "missing" or depth < len(names) - 1:
                continue
        yield str(name)


_HANDLERS: dict[type[Exception], Handler] = {
    ApiError: _api_error,
    Unreachable: _fixed(503, "The store of the indexes does not answer; retry later.", "store_unreachable", log=True),
    StorageError: _fixed(
        507, "The server cannot write to its disk, see its log; nothing was changed.", "disk", log=True
    ),
    UserError: _user_error,
    RequestValidationError: _invalid,
    HTTPException: _http_error,
    ServerBusy: _server_busy,
    ShuttingDown: _fixed(503, "The server is shutting down; retry once it is back.", "shutting_down"),
    TimeoutError: _fixed(408, "The response took too long and was cancelled; ask for less.", "request_timeout"),
    Exception: _unexpected,
}


class CountResponses:
    """ASGI middleware that counts responses by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counting_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")
                self.metrics.responses.labels(path, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counting_send)
