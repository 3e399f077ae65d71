"""What every request passes: which host and origin it names, its key, its rate; and the headers of every answer."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .limits import Limits, Refused
from .metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/", "/livez", "/readyz")  # without a key: the page asks for it
_MOST_CLIENTS = 10_000  # whose rate is known
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cache-control": "no-store",
    "server": "foveal",
}


@dataclass(frozen=True)
class Access:
    """Who may ask. ``hosts``: the names of this server in lower case; addresses in numbers are always its own, because
    a page of another site cannot have one as its name (DNS rebinding needs a name)."""

    hosts: frozenset[str] = frozenset({"localhost"})
    key: str | None = None

    def check(self, scope: Scope) -> None:
        """Raises :class:`Refused` for another host, a page of another site, or a wrong key."""
        headers = fields(scope)
        host = headers.get("host", "")
        if not self._ours(host):
            raise Refused(403, "wrong_host", "this name is not one of the server's; --allow-host adds it", close=True)
        own = f"{scope['scheme']}://{host}".lower()
        elsewhere = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        a_link = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET" and scope["path"] == "/"
        if headers.get("origin", own).lower() != own or (elsewhere and not a_link):
            raise Refused(403, "wrong_origin", "a page of another site may not use this server", close=True)
        if "transfer-encoding" in headers and "content-length" in headers:
            raise Refused(400, "two_lengths", "the body has two lengths", close=True)
        if scope["path"] not in OPEN and not scope["path"].startswith("/static/"):
            self._check_key(headers.get("authorization", ""))

    def _check_key(self, authorization: str) -> None:
        if self.key is not None and not hmac.compare_digest(_given_key(authorization).encode(), self.key.encode()):
            raise Refused(401, "no_key", "send the key: Authorization: Bearer KEY", close=True)

    def _ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if host.lower() not in (name, f"[{name}]") and not host.rpartition(":")[2].isdecimal():
                return False
        except ValueError:
            return False
        if any(mark in host for mark in "@/?#\\, "):
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return True


def _given_key(authorization: str) -> str:
    """The key of ``Bearer KEY``, or the password of ``Basic`` (Label Studio sends that)."""
    kind, _, value = authorization.partition(" ")
    if kind.lower() != "basic":
        return value if kind.lower() == "bearer" else ""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def fields(scope: Scope) -> dict[str, str]:
    """The headers of a request, names in lower case; the last of several wins."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


@dataclass
class Rate:
    """At most so many requests a minute of each client: a bucket that fills evenly."""

    a_minute: int
    _clients: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def check(self, client: str, now: float | None = None) -> None:
        """Raises :class:`Refused` for a client that has asked too often."""
        if not self.a_minute:
            return
        now = time.monotonic() if now is None else now
        left, then = self._clients.pop(client, (float(self.a_minute), now))
        left = min(self.a_minute, left + (now - then) * self.a_minute / 60)
        refused = left < 1
        self._clients[client] = (left if refused else left - 1, now)
        if len(self._clients) > _MOST_CLIENTS:
            self._clients.popitem(last=False)
        if refused:
            wait = 60 * (1 - left) / self.a_minute
            raise Refused(429, "too_often", f"at most {self.a_minute} requests a minute", retry_after=wait)


class Guard:
    """The outermost application: checks a request, and turns what is refused or goes wrong into JSON."""

    def __init__(self, app: App, access: Access, limits: Limits, metrics: Metrics) -> None:
        self.app, self.access, self.limits, self.metrics = app, access, limits, metrics
        self.rate = Rate(limits.rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answered, started = 0, time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
                message["headers"] = _with_headers(message["headers"])
            await send(message)

        try:
            self._check_size(scope)
            self.access.check(scope)
            if scope["path"] not in OPEN:
                self.rate.check((scope.get("client") or ("",))[0])
            await self.app(scope, receive, sending)
        except Refused as refused:
            await _send(refused, sending)
        finally:
            self.metrics.answered(scope["path"], answered, time.perf_counter() - started)

    def _check_size(self, scope: Scope) -> None:
        size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size + len(scope["raw_path"]) + len(scope["query_string"]) > self.limits.header_bytes:
            raise Refused(431, "headers_too_large", f"more than {self.limits.header_bytes:,} bytes", close=True)


def _with_headers(given: Any) -> list[tuple[bytes, bytes]]:
    headers = [(bytes(name), bytes(value)) for name, value in given]
    present = {name.decode().lower() for name, _ in headers}
    return headers + [(n.encode(), v.encode()) for n, v in HEADERS.items() if n not in present]


def answer_of(refused: Refused) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body ``{"code", "message"}`` of an error."""
    body = json.dumps({"code": refused.code, "message": refused.message}, ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    if refused.retry_after is not None:
        headers["retry-after"] = str(max(1, round(refused.retry_after)))
    if refused.status == 401:
        headers["www-authenticate"] = "Bearer"
    if refused.close:
        headers["connection"] = "close"
    return refused.status, headers, body


async def _send(refused: Refused, send: Send) -> None:
    status, headers, body = answer_of(refused)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
