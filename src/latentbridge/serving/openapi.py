"""The OpenAPI document and the error responses that every route declares."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from latentbridge.serving.schemas import ErrorResponse

_DESCRIPTIONS = {
    400: "The request is invalid; the message says how to fix it.",
    401: "The key is missing or wrong.",
    403: "The request came from a page of another site, or under a foreign host name.",
    404: "Not found.",
    405: "The path does not support the method.",
    408: "The request or its response took too long.",
    413: "The body is too large.",
    415: "The encoding of the body is not supported.",
    429: "Too many requests; Retry-After says when to retry.",
    431: "The headers are too large.",
    500: "Something went wrong in the server.",
    503: "The server is shutting down, or the store of its indexes does not answer.",
    507: "The server cannot write to its disk.",
}

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description} for status, description in _DESCRIPTIONS.items()
}
CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorResponse, "description": "The name is taken, or there are too many."}
}


def openapi(app: FastAPI) -> dict[str, Any]:
    """Return the document of an app without FastAPI's 422 responses: invalid requests get a 400 here."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document
