"""Connections that send nothing, or a byte now and then, are ended; and those that do not read what they asked for.

uvicorn times only the pause between two requests, and its timer stops at the first byte of the next; an application hears
of a request once its headers are whole. So a head that never ends, or a client that goes on sending after it was refused,
would hold its connection for ever. And an answer that nobody reads fills all buffers, and then whoever writes it waits, with
its place in the engine: the kernel ends a connection whose window has been shut for so long.
"""

from __future__ import annotations

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_ARRIVING = (h11.IDLE, h11.SEND_BODY)


class _Deadline(H11Protocol):
    """uvicorn's protocol with a deadline for each request, from the first byte, or from the connection, to the last, and for
    each pause in which the client takes nothing of the answer (on Linux)."""

    receive_s: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * self.receive_s))
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self.timeout_keep_alive_task is not None:
            self._unwatch()  # the first byte after a pause: a new request, with all of its time
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Starts the timer where a request is on its way and stops it where it is here; bytes do not start it anew."""
        if self.conn.their_state not in _ARRIVING or self.transport.is_closing():
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.receive_s, self._give_up)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            headers = [("Content-Length", "0"), ("Connection", "close")]
            self.transport.write(self.conn.send(h11.Response(status_code=408, headers=headers)) or b"")
        self.transport.close()


def protocol_with_deadline(receive_s: float) -> type[asyncio.Protocol]:
    """What `uvicorn.Config(http=...)` takes; a head that is late gets a 408, and every late connection is closed.

    The same time is the longest pause in which nothing of an answer is read. Give it a little more than `Limits.receive_s`,
    so that a late body is answered first by `Guard`, in OpenAI's shape.
    """
    return type("Deadline", (_Deadline,), {"receive_s": receive_s})
