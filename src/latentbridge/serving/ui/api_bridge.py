"""Where the page meets the routes: it asks them by function call, under the visitor's key, within the same limits."""

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
from latentbridge.serving.service import Service, png


@dataclass(frozen=True)
class ApiBridge:
    """What all tabs share."""

    app: FastAPI
    rates: Rates

    @property
    def service(self) -> Service:
        """The service of the app that the page belongs to."""
        return self.app.state.service

    def request(self, visit: gr.Request, path: str) -> Request:
        """What an API client would have sent to `path`, counted as that; raises Refusal where it is too much."""
        owner, kind = visit.state.owner, kind_of(path)
        self.rates.request(owner, kind)
        state = {"owner": owner, "charge": partial(self.rates.charge, owner, kind)}
        scope = {"type": "http", "method": "POST", "path": path, "headers": [], "state": state, "app": self.app}
        return Request(scope, _stays)

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """What the API would answer to an error inside, as a notice on the page."""
        try:
            yield
        except Exception as error:
            if isinstance(error, ValidationError):
                error = RequestValidationError(error.errors())
            answers: dict[Any, Any] = self.app.exception_handlers
            answer = next(answers[kind] for kind in type(error).__mro__ if kind in answers)
            said = json.loads((await answer(None, error)).body)["error"]["message"]
            raise gr.Error(said, title="This did not work", print_exception=answer is answers[Exception]) from error

    async def data_url(self, file: str | None) -> str:
        """The picture in a file that was dropped on the page, checked and at the model's size."""
        if file is None:
            raise UserError("There is no picture yet; drop one on the page, or choose a file.")
        picture = await self.service.opened(await asyncio.to_thread(Path(file).read_bytes))
        return "data:image/png;base64," + png(picture)


def shown(picture: str) -> Image.Image:
    """A picture in an answer, a PNG as base64 or as a data URL, for the page."""
    return Image.open(BytesIO(base64.b64decode(picture.rpartition(",")[2])))


async def _stays() -> Message:
    """The page's next message, which never comes: a visitor who leaves is noticed by Gradio."""
    return await asyncio.Future()
