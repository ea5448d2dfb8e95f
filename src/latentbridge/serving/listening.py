"""The uvicorn server: port check, configuration and graceful shutdown."""

from __future__ import annotations

import logging
import resource
import socket

import uvicorn
from fastapi import FastAPI

from latentbridge.errors import UserError
from latentbridge.serving.guard.deadline import protocol_with_deadline
from latentbridge.serving.guard.limits import Limits, QueryStringFilter

_MAX_OPEN_FILES = 65_536
"""The limit of file descriptors to set, if the system allows; connections and indexes hold some each."""


def check_free(host: str, port: int) -> None:
    """Raise UserError if the address cannot be bound; to be called before a model is loaded."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0].lower()
        raise UserError(
            f"The server cannot listen on {host}:{port} ({reason}); choose another --port or --host."
        ) from error


def listen(app: FastAPI, host: str, port: int, limits: Limits) -> None:
    """Serve until a signal arrives; then finish running requests and accept no new ones."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=protocol_with_deadline(limits.receive_s + 1),
        h11_max_incomplete_event_size=limits.header_bytes,
        server_header=False,
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _MAX_OPEN_FILES)), hard))
    logging.getLogger("uvicorn.access").addFilter(QueryStringFilter())
    uvicorn.Server(config).run()
