"""Strict JSON parsing: no NaN, no duplicate keys, no nesting beyond 201 levels, no numbers of thousands of digits.

The standard library's parser accepts NaN, keeps the last of two equal keys and recurses; jiter, pydantic's parser, rejects
all three and lone surrogates, and is twice as fast on a body with a picture (20 MB: 13 against 30 ms of CPU, 2026-11-23).
It reads 1e999 as infinity, which FastAPI would repeat in its 422 and fail to serialize.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from typing import Any

import jiter
from fastapi import Request, Response
from fastapi.routing import APIRoute

from latentbridge.serving.api_errors import ApiError

MAX_VALUES = 10_000
"""Values in one document; each invalid one would cost a validation error of its own, on the event loop."""


def parse_json(body: bytes) -> Any:
    """Return the document; raises a 400 that says where it is malformed without quoting it."""
    try:
        document = jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError as error:
        raise _bad_json("a duplicate key" if "duplicate key" in str(error) else str(error)) from None
    stack, values = [document], 0
    while stack:
        item = stack.pop()
        if isinstance(item, float) and math.isinf(item):
            raise _bad_json("a number too large")
        if isinstance(item, (list, dict)):
            values += len(item)
            if values > MAX_VALUES:
                raise _bad_json(f"more than {MAX_VALUES:,} values")
            stack.extend(item.values() if isinstance(item, dict) else item)
    return document


def _bad_json(reason: str) -> ApiError:
    return ApiError(400, f"The body is not valid JSON ({reason}); fix it and send it again.", "bad_json")


class JsonRoute(APIRoute):
    """A route whose JSON body is parsed by `parse_json`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict_handler(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return strict_handler


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())
