"""Runs on disks that lack something: links (exFAT, Drive in Colab), the sync of a folder, rename over a folder, locks.

The lack is made by a library that is loaded before the C library's functions (``tests/helpers/poor_disk.c``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.train_tiny import make_data

LACKS = ("links", "folder-sync", "folder-rename", "locks")
COMPILER = shutil.which("gcc") or shutil.which("cc")
SOURCE = Path(__file__).parents[1] / "helpers" / "poor_disk.c"
PROGRAM = """
import json, os, sys
from pathlib import Path
import pytest
from tests.helpers.train_tiny import train_tiny
from foveal.files.lock import FolderInUse, locked
data, out = map(Path, sys.argv[1:])
try:
    os.symlink("a", out.with_name("link"))
    print("links")
except OSError:
    pass
with locked(out, "a training run"):  # the file that names its holder stands for the lock
    with pytest.raises(FolderInUse):
        with locked(out, "another"):
            pass
train_tiny(data, out, limit=8, epochs=1)
train_tiny(data, out, limit=8, epochs=2, resume=True)
run = train_tiny(data, out, limit=8, epochs=2, resume=True)
print(json.dumps({"best": run.best.name, "last": run.last.name, "steps": run.results["steps"]}))
"""

pytestmark = pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs a C compiler on Linux")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert COMPILER is not None
    path = tmp_path_factory.mktemp("disk") / "poor_disk.so"
    subprocess.run([COMPILER, "-shared", "-fPIC", "-O1", "-o", path, SOURCE, "-ldl"], check=True)
    return path


@pytest.mark.parametrize(
    "lacks",
    [",".join(LACKS), *(pytest.param(lack, marks=pytest.mark.slow) for lack in ("", *LACKS))],
    ids=lambda lacks: lacks or "nothing",
)
def test_a_run_on_a_poor_disk(tmp_path: Path, library: Path, lacks: str) -> None:
    """Trained, extended and complete, with best and last; two runs still exclude each other."""
    data = make_data(tmp_path / "data", train=8)
    words = [sys.executable, "-c", PROGRAM, str(data), str(tmp_path / "run")]
    environment = {**os.environ, "LD_PRELOAD": str(library), "POOR_DISK": lacks, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert ("links" in lines) == ("links" not in lacks)
    assert json.loads(lines[-1])["last"] == f"step-{json.loads(lines[-1])['steps']}"
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
