"""Receives the body of a request: counted as it comes, within its time, in a bounded memory of all requests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from .limits import Limits, Refused

_SMALL = 1 << 18  # bytes of a refused body that are read, so that a client which still sends can read the answer


class Bodies:
    """The bodies that a server holds at the moment."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.held = limits, 0

    @contextmanager
    def receiving(self, request: Request) -> Iterator[Body]:
        """The body of a request, whose memory is given back at the end."""
        body = Body(self, request)
        try:
            yield body
        finally:
            self.held -= body.size


class Body:
    """One body."""

    def __init__(self, bodies: Bodies, request: Request) -> None:
        self.bodies, self.request = bodies, request
        self.size, self.complete = 0, False

    async def read(self) -> bytes:
        """All of it. Raises :class:`Refused` for one that is too large, too slow, empty or one too many."""
        limits = self.bodies.limits
        self._check_headers()
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(limits.body_time):
                while not self.complete:
                    part = await self._part()
                    self.size += len(part)
                    self.bodies.held += len(part)
                    if self.size > limits.body:
                        raise self._too_large()
                    if self.bodies.held > limits.held:
                        raise Refused(503, "busy", "too many images are being received", retry_after=1, close=True)
                    parts.append(part)
        except TimeoutError:
            raise Refused(408, "too_slow", f"the body took longer than {limits.body_time:g} s", close=True) from None
        if not self.size:
            raise Refused(400, "no_body", "the body is empty: send the bytes of an image")
        return b"".join(parts)

    async def skip(self) -> bool:
        """Reads what is left of a body that nobody wants; whether it was little and came within a second."""
        size = 0
        try:
            async with asyncio.timeout(1):
                while not self.complete and size < _SMALL:
                    size += len(await self._part())
        except (TimeoutError, ClientDisconnect):
            return False
        return self.complete

    async def _part(self) -> bytes:
        message = await self.request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.complete = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    def _check_headers(self) -> None:
        headers = self.request.headers
        if headers.get("content-encoding", "identity") != "identity":
            raise Refused(415, "encoded", "send the image as it is, without a content encoding", close=True)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.bodies.limits.body:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(413, "too_large", f"the body has more than {self.bodies.limits.body:,} bytes", close=True)
