"""Clients that do not read the response, on a real connection; slow senders are in `test_attacks.py`."""

from __future__ import annotations

import socket
import sys
import threading
import time

import pytest
from starlette.types import Receive, Scope, Send
from tests.serving.server import running

from latentbridge.serving.guard.limits import Limits

CHUNK = b"x" * 65_536
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's timer is Linux'")


class ChunkApp:
    """An app that responds with `pieces` chunks, and sets an event at the end."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.left = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(self.pieces):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.left.set()


def ask(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    return connection


@pytest.mark.timeout(60)
def test_a_client_that_does_not_read_is_disconnected():
    app = ChunkApp(pieces=1000)
    with running(app, Limits(receive_s=1.0)) as server:
        began, connection = time.monotonic(), ask(server.port)
        assert app.left.wait(30) and time.monotonic() - began > 1
    assert time.monotonic() - began < 40, "nor does it keep the server from ending"
    connection.close()


@pytest.mark.timeout(60)
def test_a_client_that_reads_with_pauses_gets_everything():
    app = ChunkApp(pieces=100)
    with running(app, Limits(receive_s=1.0)) as server, ask(server.port) as connection:
        read = 0
        while piece := connection.recv(len(CHUNK)):
            time.sleep(1.2 if read == 0 else 0)
            read += len(piece)
    assert read > 100 * len(CHUNK)
