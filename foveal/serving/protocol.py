"""HTTP over a connection: uvicorn's, with time limits for headers and unread answers, and a most of connections."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LATE = b'{"code":"too_slow","message":"the headers took too long"}'


class BoundedProtocol(H11Protocol):
    """One connection. Where there are too many, the one that has had no request for longest makes room."""

    header_time: float = 5.0  # set by the server
    read_time: float = 30.0  # for the client to read what fills the buffers
    most: int = 256
    idle_from: float = 0.0  # the time of the loop since which it has no request
    _timer: asyncio.TimerHandle | None = None  # of headers
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.idle_from = self.loop.time()
        self._wait_for_headers()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except (h11.LocalProtocolError, h11.RemoteProtocolError, UnicodeError):
            self.transport.abort()  # what follows a request that is being answered is no request
        if self.transport.is_closing() or self._busy:
            self._stop()
        elif self._timer is None:
            self._wait_for_headers()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(self.read_time, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_reading()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._stop_reading()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self.idle_from = self.loop.time()
        super().on_response_complete()

    def _make_room(self) -> None:
        """Closes the connection that has been without a request for longest; refuses this one where all have one."""
        everyone: list[Any] = [one for one in self.connections if not one.transport.is_closing()]
        if len(everyone) <= self.most:
            return
        idle = [one for one in everyone if one is not self and not one._busy]
        if idle:
            min(idle, key=lambda one: one.idle_from).transport.abort()
        else:
            self._answer(503, b"Retry-After: 1\r\n")

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self._timer = self.loop.call_later(self.header_time, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_reading(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _late(self) -> None:
        self._timer = None
        if not self._busy:
            self._answer(408)

    def _answer(self, status: int, more: bytes = b"") -> None:
        """An answer without a request, and the end of the connection."""
        if not self.transport.is_closing():
            line = {408: b"408 Request Timeout", 503: b"503 Service Unavailable"}[status]
            body = LATE if status == 408 else b'{"code":"busy","message":"too many connections"}'
            head = b"Content-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n" % len(body)
            self.transport.write(b"HTTP/1.1 " + line + b"\r\n" + head + more + b"\r\n" + body)
            self.transport.close()
