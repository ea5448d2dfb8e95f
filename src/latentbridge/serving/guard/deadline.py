"""Timeouts of connections: for requests that arrive slowly or not at all, and for clients that do not read the response.

uvicorn limits only the pause between two requests, and stops its timer at the first byte of the next; an application sees a
request once its headers are complete. So headers without end, or a client that keeps sending after a rejection, would hold
the connection forever. A response that nobody reads fills all buffers and blocks the sender, which counts as a running
request in the engine: `TCP_USER_TIMEOUT` makes the kernel close a connection whose window stays shut.
"""

from __future__ import annotations

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_RECEIVING = (h11.IDLE, h11.SEND_BODY)


class _Deadline(H11Protocol):
    """uvicorn's protocol with a deadline for each request, counted from its first byte or from the connection, and (on
    Linux) for each pause in which the client reads nothing of the response."""

    receive_s: float
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * self.receive_s))
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        if self.timeout_keep_alive_task is not None:
            self._stop_timer()  # the first byte of a new request
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _update_timer(self) -> None:
        """Run the timer while a request is incomplete; further bytes do not restart it."""
        if self.conn.their_state not in _RECEIVING or self.transport.is_closing():
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.receive_s, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            headers = [("Content-Length", "0"), ("Connection", "close")]
            self.transport.write(self.conn.send(h11.Response(status_code=408, headers=headers)) or b"")
        self.transport.close()


def protocol_with_deadline(receive_s: float) -> type[asyncio.Protocol]:
    """Return a protocol for `uvicorn.Config(http=...)`; late headers get a 408, and every late connection is closed.

    The same time is the longest pause in which nothing of a response is read. It should be a little longer than
    `Limits.receive_s`, so that `Guard` answers a late body first, in OpenAI's format.
    """
    return type("Deadline", (_Deadline,), {"receive_s": receive_s})
