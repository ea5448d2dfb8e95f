"""Error responses in OpenAI's format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse


class ApiError(HTTPException):
    """A rejected request: the status, one sentence that says how to fix it, OpenAI's code, and the field at fault."""

    def __init__(
        self, status: int, message: str, code: str, headers: Mapping[str, str] | None = None, param: str | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code, self.param = code, param

    def response(self) -> JSONResponse:
        """Return the error as a response."""
        document = error_document(self.status_code, self.detail, self.code, self.param)
        return JSONResponse(document, self.status_code, self.headers)


def rate_limited(message: str, wait_s: float) -> ApiError:
    """Return a 429 with a Retry-After header, in whole seconds."""
    return ApiError(429, message, "rate_limit_exceeded", {"Retry-After": str(max(1, math.ceil(wait_s)))})


def error_document(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return the body of an error in the format of OpenAI's API."""
    kind = {429: "rate_limit_error"}.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
