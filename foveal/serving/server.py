"""Starts a server, and ends it after what it has accepted is answered."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

import uvicorn
from starlette.routing import Route

from ..errors import FovealError
from .app import Service
from .guard import Access
from .protocol import BoundedProtocol

SETTLE = 0.3  # seconds after the signal in which connections that just arrived still get an answer


@dataclass(frozen=True)
class Certificate:
    """The files of https."""

    certificate: str
    key: str


def bind(host: str, port: int) -> socket.socket:
    """A socket on an address. Raises :class:`FovealError` where it is taken or is none of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named as TCP, so that asyncio sends answers at once (TCP_NODELAY): 40 ms an answer
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        reason = error.strerror or str(error)
        fix = "Choose another with --port; 0 takes any that is free"
        raise FovealError(f"cannot listen there ({reason})", path=f"{host}:{port}", fix=fix) from None
    return found


def run_server(
    service: Service,
    access: Access,
    listener: socket.socket,
    *,
    routes: Sequence[Route] = (),
    certificate: Certificate | None = None,
    told: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGTERM or Ctrl-C; returns when what was accepted is answered. ``told`` is called at the start."""
    limits = service.limits

    class Protocol(BoundedProtocol):
        header_time, read_time, most = limits.header_time, limits.body_time, limits.connections

    logging.getLogger("uvicorn.error").addFilter(_no_traffic)
    config = uvicorn.Config(
        service.application(access, routes),
        http=Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=limits.header_bytes,
        timeout_keep_alive=int(limits.header_time),
        timeout_graceful_shutdown=int(limits.drain_time),
        backlog=limits.connections,
        ssl_certfile=None if certificate is None else certificate.certificate,
        ssl_keyfile=None if certificate is None else certificate.key,
    )
    server = DrainingServer(config, service, told)
    service.connections = lambda: len(server.server_state.connections)
    try:
        server.run(sockets=[listener])
    finally:
        service.queue.close()


def _no_traffic(record: logging.LogRecord) -> bool:
    """What clients do wrong is counted in the metrics; only errors of ours are logged."""
    return record.levelno >= logging.ERROR


class DrainingServer(uvicorn.Server):
    """On the first signal it refuses new images, answers those that it has, and ends; on the second it ends at once."""

    def __init__(self, config: uvicorn.Config, service: Service, told: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self.told, self.since = service, told, 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.told()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.service.draining:
            self.should_exit = self.force_exit = True
        self.service.draining, self.since = True, time.monotonic()

    async def on_tick(self, counter: int) -> bool:
        service, waited = self.service, time.monotonic() - self.since
        if service.draining and waited > (service.limits.drain_time if service.active else SETTLE):
            self.should_exit = True
        return await super().on_tick(counter)
