"""HTTP over a connection: uvicorn's, with a time limit for headers and a limit of connections."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LATE = b'{"code":"too_slow","message":"the headers took too long"}'


class BoundedProtocol(H11Protocol):
    """One connection. Where there are too many, the one that has waited longest for headers makes room."""

    header_time: float = 5.0  # set by the server
    most: int = 256
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_headers()
        if len(self.connections) > self.most:
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

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _make_room(self) -> None:
        others: list[Any] = [one for one in self.connections if one is not self]
        waiting = [(one.since, one) for one in others if one.since is not None]
        if waiting:
            min(waiting, key=lambda pair: pair[0])[1].transport.abort()
        else:
            self._answer(503, b"Retry-After: 1\r\n")

    @property
    def since(self) -> float | None:
        """The time of the loop at which its wait for headers ends; None: it does not wait for any."""
        return None if self._timer is None else self._timer.when()

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_headers(self) -> None:
        self._timer = self.loop.call_later(self.header_time, self._late)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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
