"""The HTTP interface: `create_app` puts routes, errors and the engine together."""

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
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.api_errors import ApiError, error_document, too_fast
from latentbridge.serving.engine.engine import Engine, ServerBusy, ShuttingDown
from latentbridge.serving.engine.metrics import Metrics
from latentbridge.serving.guard.callers import RemoteCaller
from latentbridge.serving.guard.fetch import Fetching
from latentbridge.serving.guard.keys import Keys
from latentbridge.serving.guard.limits import Guard, Limits
from latentbridge.serving.guard.rates import Rates
from latentbridge.serving.index_registry import IndexRegistry
from latentbridge.serving.openapi import openapi
from latentbridge.serving.routes import chat, embeddings, loopback, state
from latentbridge.serving.routes import images as pictures
from latentbridge.serving.routes import indexes as search
from latentbridge.serving.service import Service
from latentbridge.serving.settings import Settings
from latentbridge.serving.tools import Tools, http_route

_log = logging.getLogger(__name__)


def create_app(
    model: OmniBridge,
    settings: Settings | None = None,
    *,
    keys: Keys | None = None,
    rates: Rates | None = None,
    limits: Limits | None = None,
    fetching: Fetching | None = None,
) -> FastAPI:
    """The server's app over a model, which it takes over (`Engine`); it works from its start-up to its shutdown.

    `app.state.service` is what routes share. What stands before them all is `Guard`, and `CountRequests` sees its refusals too.
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
    for routes in (chat, pictures, embeddings, search, loopback, state):
        app.include_router(routes.router)
    tools = Tools(app, RemoteCaller()).server()
    app.router.routes.append(http_route(tools, limits.body_bytes))
    app.openapi = cache(partial(openapi, app))
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)
    app.add_middleware(Guard, keys=keys or Keys(), rates=rates or Rates(), limits=limits)
    app.add_middleware(CountRequests, metrics=metrics)  # the last added is asked first
    return app


# --- errors --------------------------------------------------------------------------------------


_NO_ROUTE = (
    "There is nothing at this address; /openapi.json tells what there is, and `serve --ui` has a page for people."
)


async def _refused(_: Request, error: Any) -> JSONResponse:
    return error.response()


async def _user_error(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_document(400, str(error)), 400)


async def _not_kept(_: Request, error: StorageError) -> JSONResponse:
    """What is wrong with a store tells where it is, which is for the log."""
    _log.error("%s", error)
    if isinstance(error, Unreachable):
        return ApiError(
            503, "The store of the indexes does not answer; ask again later.", "store_unreachable"
        ).response()
    return ApiError(
        507, "The server cannot write to its disk, as its log tells; nothing was changed.", "disk"
    ).response()


async def _invalid(_: Request, error: Any) -> JSONResponse:
    """What pydantic found, by the name of its field; what was sent is not repeated.

    Of a field that may be one thing or another, it finds fault with both: what tells most is what fails deepest, and by
    more than its type.
    """
    found = max(error.errors(), key=lambda each: (not each["type"].endswith("_type"), len(each["loc"])))
    param = ".".join(_path_of(found, error.body))[:100] or None
    message = "Input should be a file" if "UploadFile" in found["msg"] else found["msg"]
    if param is None and found["type"] == "model_attributes_type":
        message = "The body is no JSON object; send one, with Content-Type: application/json."
    return JSONResponse(error_document(400, f"{param}: {message}" if param else message, found["type"], param), 400)


def _path_of(found: dict[str, Any], body: Any) -> Iterator[str]:
    """The names that lead to a fault in what was sent, without pydantic's own for the things a field may be."""
    names = [name for name in found["loc"] if name != "body"]
    for place, name in enumerate(names):
        try:
            body = None if body is None else body[name]
        except (KeyError, IndexError, TypeError):
            if found["type"] != "missing" or place < len(names) - 1:
                continue
        yield str(name)


async def _http(_: Request, error: Any) -> JSONResponse:
    message = _NO_ROUTE if error.status_code == 404 else str(error.detail)
    return JSONResponse(error_document(error.status_code, message), error.status_code, error.headers)


async def _busy(_: Request, error: Any) -> JSONResponse:
    return too_fast(str(error), error.retry_after_s).response()


async def _closing(_: Request, error: Exception) -> JSONResponse:
    return ApiError(503, "The server is shutting down; ask again once it is back.", "shutting_down").response()


async def _too_long(_: Request, error: Exception) -> JSONResponse:
    return ApiError(408, "The answer took too long and was given up; ask for less.", "request_timeout").response()


async def _unexpected(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse(error_document(500, "Something went wrong in the server; its log says what."), 500)


_ANSWERS: dict[type[Exception], Callable[[Request, Any], Awaitable[JSONResponse]]] = {
    ApiError: _refused,
    StorageError: _not_kept,
    UserError: _user_error,
    RequestValidationError: _invalid,
    HTTPException: _http,
    ServerBusy: _busy,
    ShuttingDown: _closing,
    TimeoutError: _too_long,
    Exception: _unexpected,
}


class CountRequests:
    """Middleware that counts answers by the route that gave them."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                path = getattr(route, "path", "other")
                self.metrics.answers.labels(path, str(message["status"])).inc()
            await send(message)

        await self.app(scope, receive, counted)
