"""The application called as a server calls it, with limits that would take a test of processes too long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("uvicorn")

from foveal.serving.app import Service
from foveal.serving.guard import Access, Rate
from foveal.serving.limits import Limits, Refused
from foveal.serving.metrics import Metrics
from foveal.serving.models import open_models
from tests.serving.server import small_model
from tests.serving.test_serve import photo

SCOPE: dict[str, Any] = {
    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
    "path": "/predict", "raw_path": b"/predict", "query_string": b"", "root_path": "",
    "headers": [(b"host", b"127.0.0.1")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("app") / "small.onnx")


def answer(service: Service, receive: Callable[[], Awaitable[dict[str, Any]]]) -> tuple[int, Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(service.application(Access())(dict(SCOPE), receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], json.loads(sent[1].get("body", b"") or "null")


def test_a_slow_body(model: Path) -> None:
    service = Service(open_models([model]), Limits(body_time=0.05))

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    status, content = answer(service, receive)
    assert status == 408 and content["code"] == "too_slow" and service.bodies.held == service.active == 0


def test_the_memory_of_all_bodies(model: Path) -> None:
    service = Service(open_models([model]), Limits(held=1000))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x" * 600, "more_body": True}

    status, content = answer(service, receive)
    assert status == 503 and content["code"] == "busy" and service.bodies.held == 0


def test_a_client_that_leaves_while_it_sends(model: Path) -> None:
    service = Service(open_models([model]), Limits())
    messages = [{"type": "http.request", "body": photo()[:100], "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    assert answer(service, receive)[0] == 499 and service.bodies.held == service.active == service.queue.inside == 0


def test_the_rate_is_a_bucket_that_fills() -> None:
    rate = Rate(60)
    for k in range(60):
        rate.check("a", 100 + k / 1e4)
    with pytest.raises(Refused) as refused:
        rate.check("a", 100.1)
    assert refused.value.status == 429 and 0 < (refused.value.retry_after or 0) <= 1
    rate.check("b", 100.1)
    rate.check("a", 101.5)


def test_metrics_are_prometheus_text() -> None:
    metrics = Metrics()
    metrics.answered("/predict", 200, 0.02)
    metrics.answered("/predict", 200, 40.0)
    metrics.answered("/other/" + "x" * 1000, 404, 0.0)
    metrics.detected('a"b')
    lines = metrics.text(1, 2).splitlines()
    assert 'foveal_requests_total{path="other",status="404"} 1' in lines
    assert 'foveal_predict_seconds_bucket{le="0.025"} 1' in lines
    assert 'foveal_predict_seconds_bucket{le="+Inf"} 2' in lines and 'foveal_images_total{model="a\\"b"} 1' in lines
