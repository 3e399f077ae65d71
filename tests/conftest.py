"""Shared fixtures. The shared data folder is found through FOVEAL_SHARED; tests that need it skip without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import properties as properties  # loads the profile of hypothesis
from tests.processor import sitecustomize

ROOT = Path(__file__).resolve().parents[1]

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # before torch is imported: the processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


@pytest.fixture(scope="session", autouse=True)
def processor() -> Iterator[None]:
    """``FOVEAL_TEST_BF16=1`` or ``=0``: the tests see a CPU with bf16 arithmetic, or without; unset: the real one.

    It sets the automatic precision, bf16 or fp32, in this process and in the subprocesses of the tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        if sitecustomize.wanted():
            folder = str(Path(sitecustomize.__file__).parent)
            patch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
            patch.setattr("foveal.runtime.precision.cpu_flags", sitecustomize.cpu_flags)
            patch.setattr("foveal.runtime.precision.faster", sitecustomize.faster)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images, annotations and weights that tests may read."""
    path = Path(os.environ.get("FOVEAL_SHARED") or ROOT.parent / "shared").resolve()
    if not (path / "data").is_dir():
        pytest.skip(f"no shared data at {path} (set FOVEAL_SHARED)")
    return path


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    """The folder that the documentation calls ``DATA``."""
    return shared / "data"
