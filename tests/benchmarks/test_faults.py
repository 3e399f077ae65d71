"""Faults at every call, limits of the machine, and chains of kills: a few of each here, all of them in the slow tests.

See benchmarks/faults.py, benchmarks/fault_limits.py and benchmarks/resume_chaos.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NO_COMPILER = 77  # the status of the sweep where it cannot run
SLOW = [
    *("train", "resume", "report", "rcnn", "spp_net", "alternation", "frozen_maps", "proposals", "fetch", "eval"),
    *("predict", "inspect", "doctor", "make", "convert", "split", "export", "compare"),
]


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=7200, check=False)
    if done.returncode == NO_COMPILER:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sweep(*arguments: str) -> str:
    return run("faults.py", *arguments)


def test_a_sample_of_faults_is_survived() -> None:
    """Its draw is the same each time."""
    told = sweep("train", "resume", "fetch", "--sample", "3", "--seed", "2")
    assert told.endswith("9 of 9 faults survived\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_every_fault_is_survived(name: str) -> None:
    sweep(name)


def test_a_file_that_becomes_too_large_ends_a_run_in_one_line() -> None:
    assert "small_files: survived" in run("fault_limits.py", "small_files")


@pytest.mark.slow
def test_limits_of_the_machine() -> None:
    """What needs a mount is skipped where it is refused."""
    told = run("fault_limits.py")
    assert told.count(": survived") + told.count(": skipped") == 9


def test_a_chain_of_kills_ends_bit_equal(tmp_path: Path) -> None:
    told = run("resume_chaos.py", "--families", "one_stage", "--chains", "1", "--out", str(tmp_path / "chaos"))
    assert "1 of 1 bit-identical" in told


@pytest.mark.slow
def test_fifty_chains_of_kills_end_bit_equal(tmp_path: Path) -> None:
    told = run("resume_chaos.py", "--chains", "50", "--seed", "1", "--out", str(tmp_path / "chaos"))
    assert "50 of 50 bit-identical" in told


def test_the_sweep_finds_a_fault(tmp_path: Path) -> None:
    """A writer that is not atomic: its half of a file is found, and that its error names no file."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from fault_scenarios import Scenario  # type: ignore[import-not-found]
        from faults import Ended, Fault, Look  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    scenario = Scenario("eval", lambda: None, [], ["it.json"])
    (tmp_path / "it.json").write_text('{"half')
    look = Look(scenario, tmp_path, {"it.json": "a digest"}, -1)
    fault = Fault("write", 1, "ENOSPC")
    assert [w[:20] for w in look.half_written(Ended(0, "", ""))] == ["half-written it.json"]
    said = Ended(1, "", "foveal: No space left on device\n")
    assert look.message(said, str(tmp_path / "it.json"), fault) == ["the file is not named"]
    bug = Ended(3, "", "Traceback ...\nfoveal: this is a bug of foveal.\n")
    assert look.message(bug, str(tmp_path / "it.json"), fault) == ["status 3, traceback or bug"]
    assert look.silent(Ended(0, "", "")) != [] and look.again(said, said)
    (tmp_path / ".it.json.5.part").touch()
    assert look.message(Ended(-1, "", ""), str(tmp_path / "it.json"), fault) == ["hangs"]
