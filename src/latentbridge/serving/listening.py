"""The server's process: an app behind uvicorn, which ends in good order."""

from __future__ import annotations

import logging

import uvicorn
from fastapi import FastAPI

from latentbridge.serving.guard.deadline import protocol_with_deadline
from latentbridge.serving.guard.limits import Limits, WithoutQueries


def listen(app: FastAPI, host: str, port: int, limits: Limits) -> None:
    """Serve until a signal ends it: what was begun is finished, and nothing new is taken."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol_with_deadline(limits.receive_s + 1),
        h11_max_incomplete_event_size=limits.header_bytes,
        server_header=False,
    )
    logging.getLogger("uvicorn.access").addFilter(WithoutQueries())
    uvicorn.Server(config).run()
