"""A real Chromium for tests of pages. Needs Playwright (pip) and a Chromium (Debian's package); skips without."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str:
    """The path of a Chromium, or a skipped test."""
    found = os.environ.get("FOVEAL_CHROMIUM") or next((p for name in NAMES if (p := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium: install Debian's chromium, or set FOVEAL_CHROMIUM to one")
    return found


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """A browser; ``arguments`` are of its command line."""
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    path = executable()
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", *arguments])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, path: Path, width: int = 1280, height: int = 800, scheme: str = "light") -> Iterator[Any]:
    """A page from ``file://``; at the end it must have made no request and logged no error."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    errors: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url) if not request.url.startswith("data:") else None)
    page.goto(path.resolve().as_uri())
    page.wait_for_load_state()
    yield page
    assert errors == []
    assert requests == [path.resolve().as_uri()]
    page.close()
