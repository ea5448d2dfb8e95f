"""What the OpenAPI document says of refusals, which any route may give."""

from __future__ import annotations

from typing import Any

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
    503: "The server is shutting down.",
}

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": meaning} for status, meaning in _MEANINGS.items()
}
TAKEN: dict[int | str, dict[str, Any]] = {409: {"model": ErrorAnswer, "description": "The name is taken."}}
