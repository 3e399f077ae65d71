"""The routes of a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..errors import nearest
from .body import Bodies, Body
from .guard import Access, App, Guard, answer_of
from .limits import Limits, Refused
from .metrics import Metrics
from .models import Asked, ServedModel
from .page import page_files
from .queue import Queue

PARAMETERS = ("score", "top", "classes", "model")
_GONE = 499  # the client left: nobody reads this answer


class Service:
    """The detectors with their queue, and the routes to them."""

    def __init__(self, models: Sequence[ServedModel], limits: Limits) -> None:
        self.models = {model.name: model for model in models}
        self.limits = limits
        self.metrics, self.bodies, self.queue = Metrics(), Bodies(limits), Queue(limits.waiting)
        self.draining = False
        self.active = 0  # requests for detections that are not answered
        self.connections: Callable[[], int] = lambda: 0
        self.files = page_files()

    def application(self, access: Access, more: Sequence[Route] = ()) -> App:
        """The ASGI application, guarded; ``more`` routes beside its own."""
        routes = [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/info", self.info, methods=["GET"]),
            Route("/livez", self.livez, methods=["GET"]),
            Route("/readyz", self.readyz, methods=["GET"]),
            Route("/metrics", self.show_metrics, methods=["GET"]),
            *(Route(path, self.file, methods=["GET"]) for path in self.files),
        ]
        routes += more
        handlers: dict[Any, Any] = {Refused: _refused, HTTPException: _other_error, Exception: _bug}
        return Guard(Starlette(routes=routes, exception_handlers=handlers), access, self.limits, self.metrics)

    # ------------------------------------------------------------------------------------------- detections
    async def predict(self, request: Request) -> Response:
        """An image as the body -> its detections."""
        self.active += 1
        try:
            with self.bodies.receiving(request) as body:
                try:
                    model, answer = await self._predicted(request, body)
                except Refused as refused:
                    refused.close = refused.close or self.draining or not await body.skip()
                    raise
            self.metrics.detected(model)
            headers = {"connection": "close"} if self.draining else None
            return Response(answer, media_type="application/json", headers=headers)
        except ClientDisconnect:
            return Response(status_code=_GONE)
        finally:
            self.active -= 1

    async def _predicted(self, request: Request, body: Body) -> tuple[str, bytes]:
        """Name of the model, and answer."""
        model, asked = self._question(request)
        if self.draining:
            raise Refused(503, "stopping", "the server is stopping", retry_after=1)
        self.queue.check()
        data = await body.read()
        return model.name, await self.detect(request, lambda: model.answer(data, asked, self.limits.pixels))

    async def detect(self, request: Request, job: Callable[[], bytes]) -> bytes:
        """The result of a job of the queue; its place is free again when the client leaves or the time is up."""
        work = asyncio.ensure_future(self.queue.run(job))
        gone = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({work, gone}, timeout=self.limits.answer_time, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if gone.done():
                raise ClientDisconnect
            late = f"no answer within {self.limits.answer_time:g} s"
            raise Refused(504, "too_late", late, retry_after=self.queue.inside * self.queue.seconds)
        finally:
            work.cancel()
            gone.cancel()

    def _question(self, request: Request) -> tuple[ServedModel, Asked]:
        """The model and what is wanted. Raises :class:`Refused` for a parameter that is none, or has no such value."""
        given = dict(request.query_params)
        for name in given:
            if name not in PARAMETERS:
                word = name[:40]
                raise Refused(400, "unknown_parameter", f"{word!r}: {nearest(word, PARAMETERS, 'parameters')}")
        name = given.get("model", next(iter(self.models)))
        if name not in self.models:
            raise Refused(400, "unknown_model", f"{name[:80]!r}: {nearest(name[:80], self.models, 'models')}")
        model = self.models[name]
        classes = tuple(part for part in given.get("classes", "").split(",") if part)
        if unknown := [c for c in classes if c not in model.classes]:
            word = unknown[0][:80]
            raise Refused(400, "unknown_class", f"{word!r}: {nearest(word, model.classes, 'classes')}")
        return model, Asked(_number(given, "score"), _count(given, "top"), classes)

    # ------------------------------------------------------------------------------------------- the others
    async def info(self, request: Request) -> Response:
        """The detectors, and the limits."""
        return JSONResponse({"models": [m.facts for m in self.models.values()], "limits": asdict(self.limits)})

    async def livez(self, request: Request) -> Response:
        """200 as long as the server runs."""
        return PlainTextResponse("ok\n")

    async def readyz(self, request: Request) -> Response:
        """200 while it takes images, 503 when it stops."""
        return PlainTextResponse("stopping\n", 503) if self.draining else PlainTextResponse("ok\n")

    async def show_metrics(self, request: Request) -> Response:
        """For Prometheus."""
        text = self.metrics.text(self.queue.inside, self.connections())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def file(self, request: Request) -> Response:
        """A part of the page."""
        content, kind = self.files[request.url.path]
        return Response(content, media_type=kind)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _number(given: dict[str, str], name: str) -> float:
    text = given.get(name, "0.5")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise Refused(400, f"bad_{name}", f"{name} is {text[:40]!r}, expected a number from 0 to 1")
    return value


def _count(given: dict[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 7):
        raise Refused(400, f"bad_{name}", f"{name} is {text[:40]!r}, expected a whole number")
    return int(text)


def _response(refused: Refused) -> Response:
    status, headers, body = answer_of(refused)
    return Response(body, status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _response(error)


async def _other_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, another method."""
    assert isinstance(error, HTTPException)
    code = {404: "no_such_route", 405: "wrong_method"}.get(error.status_code, "error")
    response = _response(Refused(error.status_code, code, error.detail, close=True))  # its body is not read
    for name, value in (error.headers or {}).items():
        response.headers.setdefault(name, value)
    return response


async def _bug(request: Request, error: Exception) -> Response:
    """Starlette raises the error again, and uvicorn logs it."""
    return _response(Refused(500, "bug", "a bug of foveal: the server's output says more", close=True))
