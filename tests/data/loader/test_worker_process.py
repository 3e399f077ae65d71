"""Scripts that train outside ``if __name__ == "__main__":``, where processes start by spawn or forkserver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.train_tiny import make_data

ROOT = Path(__file__).parents[3]

# as the README's snippet; the start method is what macOS, Windows (spawn) and Python 3.14 (forkserver) have
SCRIPT = """
import multiprocessing, sys
from dataclasses import dataclass, replace
from pathlib import Path
from tests.helpers.train_tiny import FIT, TinySpec, train_tiny
from foveal.data.augment.transforms import HorizontalFlip
multiprocessing.set_start_method("{start}", force=True)
print("the script runs", flush=True)

@dataclass(frozen=True)
class Mine(HorizontalFlip):
    pass

spec = TinySpec(fit=replace(FIT, epochs=1, augment=({augment}(),)))
run = train_tiny(Path({data!r}), Path({out!r}), spec, workers=1)
print(run.results["images"], "images")
"""


def run(tmp_path: Path, start: str, augment: str) -> subprocess.CompletedProcess[str]:
    data = str(make_data(tmp_path / "data"))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(start=start, augment=augment, data=data, out=str(tmp_path / "run")))
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, env=env)


@pytest.mark.parametrize("start", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_an_unguarded_script_is_not_run_again(tmp_path: Path, start: str) -> None:
    done = run(tmp_path, start, "HorizontalFlip")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the script runs\n4 images\n"


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
@pytest.mark.slow
def test_a_script_whose_parts_the_data_needs_is_told(tmp_path: Path, start: str) -> None:
    done = run(tmp_path, start, "Mine")
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1  # of the error in the script's own call
    last = done.stderr.strip().splitlines()[-1]
    assert "import the script" in last and 'Put the call below if __name__ == "__main__":' in last
