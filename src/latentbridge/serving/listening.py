"""The server's process: an app behind uvicorn, which ends in good order."""

from __future__ import annotations

import logging
import resource
import socket

import uvicorn
from fastapi import FastAPI

from latentbridge.errors import UserError
from latentbridge.serving.guard.deadline import protocol_with_deadline
from latentbridge.serving.guard.limits import Limits, WithoutQueries

_FILES = 65_536
"""Open at a time, where the system lets us: connections and indexes hold some each."""


def check_free(host: str, port: int) -> None:
    """Refuses an address that cannot be listened at, before a model is loaded for it."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0].lower()
        raise UserError(f"{host}:{port} cannot be listened at ({reason}); choose another --port or --host.") from error


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
    few, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(few, min(most, _FILES)), most))
    logging.getLogger("uvicorn.access").addFilter(WithoutQueries())
    uvicorn.Server(config).run()
