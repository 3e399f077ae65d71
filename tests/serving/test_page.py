"""The page of a server in a real Chromium: photos, threshold, classes, files, two detectors, the camera."""

from __future__ import annotations

import csv
import io
import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.inspection.browser import chromium
from tests.serving.server import Server, serving, small_model
from tests.serving.test_serve import photo

for needed in ("onnx", "onnxruntime", "starlette", "uvicorn", "playwright"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as one:
        yield one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(small_model(folder / "first.onnx"), folder / "second.onnx")
    with serving(folder / "first.onnx", folder / "second.onnx") as running:
        yield running


@contextmanager
def page_of(browser: Any, server: Server, refused: int = 0, **options: Any) -> Iterator[tuple[Any, list[str]]]:
    """The page, and the addresses that it has asked for: the server's own alone.

    No error is logged but one for each of the ``refused`` requests.
    """
    page = browser.new_page(**options)
    errors: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.wait_for_selector("#work:not([hidden])")
    yield page, asked
    end = time.monotonic() + 10
    while len(errors) < refused and time.monotonic() < end:  # with two models the second refusal may still come
        page.wait_for_timeout(20)
    assert len(errors) == refused and all("status of 415" in text for text in errors), errors
    assert all(url.startswith((f"http://127.0.0.1:{server.port}/", "blob:", "data:")) for url in asked)
    page.close()


def wait(page: Any, true: str, seconds: float = 20.0) -> None:
    """Playwright's own waiting evaluates text in the page, which its security policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(true):
        assert time.monotonic() < end, true
        time.sleep(0.05)


def put(page: Any, count: int) -> None:
    files = [
        {"name": f"photo, {k}.jpg", "mimeType": "image/jpeg", "buffer": photo(k, (160, 120))} for k in range(count)
    ]
    page.set_input_files("#files", files)
    wait(page, "page.state.photos.length && page.state.photos.every(p => p.error || p.results.every(Boolean))")


def saved(page: Any, kind: str) -> bytes:
    page.select_option("#format", kind)
    with page.expect_download() as download:
        page.click("#save")
    return Path(download.value.path()).read_bytes()


def test_photos_threshold_classes_and_files(browser: Any, server: Server) -> None:
    with page_of(browser, server) as (page, asked):
        put(page, 3)
        assert page.locator(".panel canvas").count() == 6  # two detectors
        before = len(asked)
        page.evaluate("page.setScore(0.01)")
        shown = page.evaluate("page.shown()")
        alone = [server.json("/predict?score=.01&model=first", photo(k, (160, 120)))["detections"] for k in range(3)]
        assert [entry["detections"] for entry in shown] == alone and len(alone[0]) == 2
        page.click("#classes summary")
        page.click("#class-list input[value=dog]")
        assert {d["label"] for entry in page.evaluate("page.shown()") for d in entry["detections"]} == {"cat"}
        page.keyboard.press("Escape")
        assert [url for url in asked[before:] if not url.startswith("blob:")] == []
        assert [entry["image"] for entry in json.loads(saved(page, "json"))] == [f"photo, {k}.jpg" for k in range(3)]
        rows = list(csv.DictReader(io.StringIO(saved(page, "csv").decode())))
        assert [(row["image"], row["label"]) for row in rows] == [(f"photo, {k}.jpg", "cat") for k in range(3)]
        coco = json.loads(saved(page, "coco"))
        x, y, w, h = coco["annotations"][0]["bbox"]
        assert [x, y, x + w, y + h] == pytest.approx(alone[0][0]["box"], abs=1e-6)
        with zipfile.ZipFile(io.BytesIO(saved(page, "yolo"))) as archive:
            assert archive.testzip() is None and len(archive.namelist()) == 4
            line = archive.read("labels/photo, 0.txt").decode().split()
        x1, y1, x2, y2 = alone[0][0]["box"]
        assert [float(v) for v in line] == pytest.approx(
            [0, (x1 + x2) / 320, (y1 + y2) / 240, (x2 - x1) / 160, (y2 - y1) / 120], abs=1e-5
        )


def test_drag_paste_and_what_is_no_image(browser: Any, server: Server) -> None:
    with page_of(browser, server, refused=2) as (page, _):
        data = list(photo(1, (160, 120)))
        hand = """([data, event, name]) => {
            const held = new DataTransfer(), options = {bubbles: true, cancelable: true};
            held.items.add(new File([new Uint8Array(data)], name, {type: name.endsWith('.jpg') ? 'image/jpeg' : ''}));
            dispatchEvent(event === 'drop' ? new DragEvent(event, {dataTransfer: held, ...options})
                : new ClipboardEvent(event, {clipboardData: held, ...options})); }"""
        page.evaluate(hand, [data, "drop", "dropped.jpg"])
        page.evaluate(hand, [data, "paste", "pasted.jpg"])
        wait(page, "page.state.photos.length === 2 && page.state.photos.every(p => p.results.every(Boolean))")
        page.evaluate(hand, [data, "drop", "notes.txt"])
        assert "no image" in page.inner_text("#said")
        page.evaluate(hand, [[1, 2, 3], "drop", "broken.jpg"])
        wait(page, "page.state.photos.length === 3 && Boolean(page.state.photos[2].error)")
        assert page.locator(".card .bad").count() >= 1


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1600, "dark")])
def test_narrow_and_wide(browser: Any, server: Server, width: int, scheme: str) -> None:
    with page_of(browser, server, viewport={"width": width, "height": 800}, color_scheme=scheme) as (page, _):
        put(page, 2)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.keyboard.press("ArrowRight")
        assert page.evaluate("page.state.score") == pytest.approx(0.55)


def test_the_camera(browser: Any, server: Server) -> None:
    with page_of(browser, server) as (page, asked):
        page.click("#camera")
        wait(page, "document.getElementById('rate').textContent.includes('pictures/s')")
        page.click("#snap")
        wait(page, "page.state.photos.length === 1 && page.state.photos[0].results.every(Boolean)")
        page.click("#stop")
        assert sum("/predict" in url for url in asked) > 3 and page.is_hidden("#live")
