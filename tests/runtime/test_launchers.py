"""SLURM, MPI, notebooks: the variables as they set them, and real processes that meet by them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foveal.errors import UsageError
from foveal.runtime import launchers
from tests.helpers.train_tiny import make_data

ROOT = Path(__file__).parents[2]
OURS = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    launchers.NAME,
)
SLURM = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "1", "SLURM_NODELIST": "127.0.0.1"}
SLURM |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
STEP = {**SLURM, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2"}
NODES = {"SLURM_NNODES": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "gpu[07-08]"}
OMPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a launcher; what :func:`~launchers.adopt` sets is removed afterwards."""
    for name in list(os.environ):
        if name in OURS or name.startswith(("SLURM_", "OMPI_", "PMI", "MPI_", "MV2_", "TORCHELASTIC")):
            monkeypatch.delenv(name)
    for name in OURS:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("given", "expected"),  # (launcher, processes here, machines), rank, local rank, host
    [
        ({}, None),
        ({**SLURM, "SLURM_NTASKS": "1"}, None),
        ({**SLURM, "SLURM_NTASKS": "4"}, None),  # a script of sbatch
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, None),  # srun -n 1 in a job of four
        ({**STEP, "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, (("SLURM", 2, 1), 1, 1, "127.0.0.1")),
        ({**SLURM, "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, (("SLURM", 2, 1), 0, 0, "127.0.0.1")),
        (
            {**STEP, **NODES, "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"},
            (("SLURM", 2, 2), 2, 0, "gpu07"),
        ),
        ({"PMI_SIZE": "2", "PMI_RANK": "1"}, (("MPI", 2, 1), 1, 1, "127.0.0.1")),
        (
            {**OMPI, "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "MASTER_ADDR": "first"},
            (("MPI", 2, 2), 3, 1, "first"),
        ),
        ({**STEP, "PMI_SIZE": "2", "PMI_RANK": "0"}, (("SLURM", 2, 1), 0, 0, "127.0.0.1")),  # srun --mpi=pmi2
        (
            {**SLURM, "SLURM_NTASKS": "4", **OMPI, "OMPI_COMM_WORLD_RANK": "0", "MASTER_ADDR": "a"},
            (("MPI", 2, 2), 0, 0, "a"),
        ),
    ],
)
def test_a_place_among_processes(given: dict[str, str], expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    launchers.adopt()
    launchers.adopt()  # a second training in the same process
    found = launchers.external()
    if expected is None:
        assert found is None and "RANK" not in os.environ
        return
    place = found, int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), os.environ["MASTER_ADDR"]
    assert place == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({**STEP, **NODES, "SLURM_STEP_NUM_TASKS": "3"}, "3 tasks unevenly on 2 machines. Give srun --ntasks-per-node"),
        ({**STEP, **NODES, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "3,1"}, "4 tasks unevenly"),
        ({**OMPI, "OMPI_COMM_WORLD_RANK": "0"}, "MASTER_ADDR: MPI started processes on several machines"),
    ],
)
def test_what_cannot_be_placed(given: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        launchers.adopt()


def test_a_script_of_sbatch_with_several_tasks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**SLURM, "SLURM_NTASKS": "4"}.items():
        monkeypatch.setenv(name, value)
    assert "SLURM has 4 tasks" in launchers.single_process_note(
        None
    ) and "--devices 4" in launchers.single_process_note(None)
    assert launchers.single_process_note(2) == ""  # said
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert launchers.single_process_note(None) == ""


def start(options: dict[str, Any], **variables: str) -> subprocess.Popen[str]:
    """The tiny training with these variables of a launcher."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.train_tiny", json.dumps(options)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


@pytest.mark.parametrize(
    "launcher",
    [
        "srun",
        pytest.param("mpirun", marks=pytest.mark.slow),
        pytest.param("hydra", marks=pytest.mark.slow),
        pytest.param("sbatch", marks=pytest.mark.slow),
    ],
)
def test_one_run_of_two_processes(tmp_path: Path, launcher: str) -> None:
    """Whoever started them; ``sbatch``: one task and ``--devices 2``."""
    data = make_data(tmp_path / "data")
    options = {"data": str(data), "out": str(tmp_path / "run"), "fit": {"epochs": 1}}
    places = {
        "srun": [{**STEP, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)],
        "mpirun": [
            {
                f"OMPI_COMM_WORLD_{k}": v
                for k, v in dict(SIZE="2", LOCAL_SIZE="2", RANK=str(i), LOCAL_RANK=str(i)).items()
            }
            for i in range(2)
        ],
        "hydra": [{"PMI_SIZE": "2", "PMI_RANK": str(i)} for i in range(2)],
        "sbatch": [{**SLURM, "SLURM_NTASKS": "1"}],
    }[launcher]
    if launcher == "sbatch":
        options["devices"] = 2
    for status, output in finish([start(options, **place) for place in places]):
        assert status == 0, output
    assert json.loads((tmp_path / "run" / "run.json").read_text())["environment"]["processes"] == 2
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "val"] == [3]  # one run


def test_what_cannot_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(sys.modules["__main__"]), "__file__", __file__)  # a script, whoever runs the tests
    launchers.check_script(2)
    monkeypatch.setattr(sys, "ps1", "In [1]: ", raising=False)
    with pytest.raises(UsageError, match="a notebook, an interactive session or python -c cannot start 2 processes"):
        launchers.check_script(2)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["notebook", "-c"])
def test_a_notebook_with_two_processes_is_told(tmp_path: Path, how: str) -> None:
    data = make_data(tmp_path / "data")
    call = f"from pathlib import Path\ntrain_tiny(Path({str(data)!r}), Path({str(tmp_path / 'run')!r}), devices=2)\n"
    text = f"import sys\nfrom tests.helpers.train_tiny import train_tiny\n{'sys.ps1 = 1' * (how == 'notebook')}\n{call}"
    command = [sys.executable, "-c", text] if how == "-c" else [sys.executable, "-"]
    done = subprocess.run(command, input=text, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and not (tmp_path / "run").exists()
    assert "cannot start 2 processes" in done.stderr.splitlines()[-1] and "devices=1" in done.stderr
