"""What a server says to a request it does not serve, in OpenAI's shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse


class ApiError(HTTPException):
    """A request that is not served: the status, one sentence that names the mend, and OpenAI's code for it."""

    def __init__(self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.code = code

    def response(self) -> JSONResponse:
        """The refusal as an answer."""
        return JSONResponse(error_document(self.status_code, self.detail, self.code), self.status_code, self.headers)


def too_fast(message: str, wait_s: float) -> ApiError:
    """A 429 that says when to come back, in whole seconds, as Retry-After has it."""
    return ApiError(429, message, "rate_limit_exceeded", {"Retry-After": str(max(1, math.ceil(wait_s)))})


def error_document(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The body of an error as OpenAI's clients read it."""
    kind = {429: "rate_limit_error"}.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
