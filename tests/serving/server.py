"""A real server on loopback, in a thread of this process, and a raw socket client."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO

import uvicorn
from starlette.types import ASGIApp

from latentbridge.serving.guard.deadline import protocol_with_deadline
from latentbridge.serving.guard.limits import Limits, QueryStringFilter

TIMEOUT_S = 60.0
"""Timeout of the client; far above every limit of the servers under test."""


@dataclass
class Answer:
    """The bytes received until the server closed or the response was complete."""

    raw: bytes
    seconds: float

    @property
    def status(self) -> int:
        """Return the status; 0 if the connection closed without a response."""
        return int(self.raw[9:12]) if self.raw.startswith(b"HTTP/1.1 ") else 0

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]


@dataclass
class Server:
    port: int
    log: StringIO
    headers: tuple[str, ...] = field(default=())
    """Header lines of every request, such as a key."""

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send(self, pieces: Iterable[bytes], pause_s: float = 0.0, cut: bool = False) -> Answer:
        """Send the pieces one by one until the server responds or closes; `cut` closes the sending side at the end."""
        began = time.monotonic()
        with self.connect() as connection:
            connection.settimeout(pause_s or 0.0001)
            raw = b""
            try:
                for piece in pieces:
                    connection.settimeout(TIMEOUT_S)
                    connection.sendall(piece)
                    connection.settimeout(pause_s or 0.0001)
                    if raw := _receive(connection):
                        break
                    assert time.monotonic() - began < TIMEOUT_S, "the server accepts this forever"
            except (ConnectionError, TimeoutError):
                pass
            connection.settimeout(TIMEOUT_S)
            try:
                if cut:
                    connection.shutdown(socket.SHUT_WR)
                while not _is_complete(raw) and (more := connection.recv(65_536)):
                    raw += more
            except (ConnectionError, TimeoutError):
                pass
        return Answer(raw, time.monotonic() - began)

    def request(self, method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
        """Return the bytes of a request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *self.headers, *headers]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body

    def ask(self, method: str, path: str, body: bytes = b"", *headers: str) -> Answer:
        return self.send([self.request(method, path, body, *headers)])

    def post_json(self, path: str, body: bytes) -> Answer:
        return self.ask("POST", path, body, "Content-Type: application/json")

    def lives(self) -> bool:
        return self.ask("GET", "/healthz").status == 200


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except TimeoutError:
        return b""


def _is_complete(raw: bytes) -> bool:
    """Return whether a response is complete."""
    head, blank, body = raw.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(blank) and bool(lengths) and len(body) >= int(lengths[0])


@contextmanager
def running(app: ASGIApp, limits: Limits, headers: tuple[str, ...] = ()) -> Iterator[Server]:
    """Run an app behind uvicorn as `latentbridge serve` does, with all log messages kept."""
    log = StringIO()
    handler = logging.StreamHandler(log)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app,
            http=protocol_with_deadline(limits.receive_s + 1),
            h11_max_incomplete_event_size=limits.header_bytes,
            log_config=None,
        )
        root, access = logging.getLogger(), logging.getLogger("uvicorn.access")
        level, query_filter = root.level, QueryStringFilter()
        root.addHandler(handler)
        access.addFilter(query_filter)
        access.setLevel("INFO")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Server(listener.getsockname()[1], log, headers)
        finally:
            server.should_exit = True
            thread.join(TIMEOUT_S)
            root.removeHandler(handler)
            root.setLevel(level)
            access.removeFilter(query_filter)
