"""Shared fixtures. The shared data folder is found through FOVEAL_SHARED; tests that need it skip without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images, annotations and weights that tests may read."""
    path = Path(os.environ.get("FOVEAL_SHARED", ROOT / ".." / "shared")).resolve()
    if not (path / "data").is_dir():
        pytest.skip(f"no shared data at {path} (set FOVEAL_SHARED)")
    return path


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """``DATA`` of the documentation."""
    return shared / "data"
