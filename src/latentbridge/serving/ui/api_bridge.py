"""The bridge from the page to the routes: it calls their functions under the visitor's key and limits."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from PIL import Image
from pydantic import ValidationError
from starlette.types import Message

from latentbridge.errors import UserError
from latentbridge.serving.guard.limits import kind_of
from latentbridge.serving.guard.rates import Rates
from latentbridge.serving.service import Service, png_base64


@dataclass(frozen=True)
class ApiBridge:
    """The app and the rate limits, shared by all tabs."""

    app: FastAPI
    rates: Rates

    @property
    def service(self) -> Service:
        """The app's service."""
        return self.app.state.service

    def request(self, visit: gr.Request, path: str) -> Request:
        """Return a request to `path` under the visitor's key, counted like an API client's; raises ApiError above a limit."""
        owner, kind = visit.state.owner, kind_of(path)
        self.rates.request(owner, kind)
        state = {"owner": owner, "charge": partial(self.rates.charge, owner, kind)}
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "state": state, "app": self.app}
        return Request(scope, _never_disconnect)

    @asynccontextmanager
    async def show_errors(self) -> AsyncIterator[None]:
        """Show an error inside as a notice on the page, with the API's message."""
        try:
            yield
        except Exception as error:
            if isinstance(error, ValidationError):
                error = RequestValidationError(error.errors())
            handlers: dict[Any, Any] = self.app.exception_handlers
            handler = next(handlers[kind] for kind in type(error).__mro__ if kind in handlers)
            message = json.loads((await handler(None, error)).body)["error"]["message"]
            unexpected = handler is handlers[Exception]
            raise gr.Error(message, title="This did not work", print_exception=unexpected) from error

    async def data_url(self, file: str | None) -> str:
        """Return an uploaded picture as a data URL, checked and at the model's size."""
        picture = await self.service.decode_picture(await self.uploaded(file))
        return "data:image/png;base64," + png_base64(picture)

    async def uploaded(self, file: str | None) -> bytes:
        """Return the bytes of an uploaded picture."""
        if file is None:
            raise UserError("There is no picture yet; drop one on the page, or choose a file.")
        return await asyncio.to_thread(Path(file).read_bytes)


def decode_image(png: str) -> Image.Image:
    """Return the image of a PNG in base64 or in a data URL."""
    return Image.open(BytesIO(base64.b64decode(png.rpartition(",")[2])))


async def _never_disconnect() -> Message:
    """Wait forever: Gradio notices visitors who leave."""
    return await asyncio.Future()
