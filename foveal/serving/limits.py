"""What a server accepts, and the errors that it answers with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of a server; a request beyond one gets an answer that names it."""

    body: int = 20_000_000  # bytes of an image
    held: int = 200_000_000  # bytes of all images that are being received or wait
    pixels: int = 64_000_000  # of an image, by its header
    header_bytes: int = 16_384  # of a request line with its headers
    header_time: float = 5.0  # seconds from the first byte (or the connection) to the last header
    body_time: float = 30.0  # seconds for the body
    answer_time: float = 30.0  # seconds from the body to the answer
    waiting: int = 32  # images that wait for the detector
    connections: int = 256
    rate: int = 0  # requests a minute of one client; 0: any number
    drain_time: float = 20.0  # seconds for accepted requests after SIGTERM


class Refused(Exception):
    """A request that gets an error. ``message`` names no path and nothing of the machine."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: float | None = None, close: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after, self.close = retry_after, close
