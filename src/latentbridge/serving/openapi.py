"""The OpenAPI document: what it says of refusals, which any route may give."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from latentbridge.serving.schemas import ErrorAnswer

_MEANINGS = {
    400: "The request is not as it should be; the message names the mend.",
    401: "The key is missing or wrong.",
    403: "A page of another site, or another name of the server's, sent this.",
    404: "There is no such thing.",
    405: "The path takes another method.",
    408: "The request came too slowly, or its answer took too long.",
    413: "The body is too large.",
    415: "The body is of a kind that is not read.",
    429: "Too many requests; Retry-After says when to come back.",
    431: "The headers are too large.",
    500: "Something went wrong in the server.",
    503: "The server is shutting down, or the store of its indexes does not answer.",
    507: "The server cannot write to its disk.",
}

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": meaning} for status, meaning in _MEANINGS.items()
}
TAKEN: dict[int | str, dict[str, Any]] = {
    409: {"model": ErrorAnswer, "description": "The name is taken, or there are too many."}
}


def openapi(app: FastAPI) -> dict[str, Any]:
    """The document of an app, without the 422 that FastAPI puts everywhere: what is not as it should be gets a 400."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    return document
