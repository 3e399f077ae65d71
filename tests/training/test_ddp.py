"""Two processes (gloo) against one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from lightning_fabric import Fabric

from foveal.checkpoints import folder as checkpoint
from foveal.data.open import open_dataset
from foveal.training.loop.validate import Validator
from tests.helpers.train_tiny import TinySpec, make_data

ROOT = Path(__file__).parents[2]
# batch statistics and dropout differ by process, so there are none
PLAIN = {
    "spec": {"dropout": 0.0, "norm": False, "noise": 0.0},
    "fit": {"ema": None, "clip": None, "epochs": 2, "lr": 0.05},
}


def start(processes: int, arguments: dict[str, Any]) -> subprocess.Popen[str]:
    """``main`` of the tiny training under torchrun's environment variables, on the loopback device."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "error", "-m", "tests.helpers.train_tiny", json.dumps(arguments)]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
        command = [sys.executable, *launcher, "-m", "tests.helpers.train_tiny", json.dumps(arguments)]
    return launch(command)


def launch(command: list[str]) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that torchrun's children can be ended with it
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Waits for exit status 0 and returns the output; leaves no process running in any case."""
    try:
        output, _ = process.communicate(timeout=240)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize(
    "empty_from",
    [
        pytest.param(None, marks=pytest.mark.slow),
        2,  # two objects in all the data: in most batches one process has no box, in some both
    ],
)
def test_two_processes_match_one_process(tmp_path: Path, empty_from: int | None) -> None:
    """Gradients of the first iteration, weights and validation at the end."""
    data = make_data(tmp_path / "data", val=5, empty_from=empty_from)
    runs = {n: tmp_path / f"run-{n}" for n in (1, 2)}
    for n, out in runs.items():
        finish(start(n, {"data": str(data), "out": str(out), "gradients": str(tmp_path / f"grad-{n}"), **PLAIN}))
    one = torch.load(tmp_path / "grad-1-0.pt", weights_only=True)
    for rank in (0, 1):
        two = torch.load(tmp_path / f"grad-2-{rank}.pt", weights_only=True)
        assert one.keys() == two.keys()
        for name, gradient in one.items():
            assert torch.allclose(gradient, two[name], rtol=1e-4, atol=1e-7), name
    a, b = (checkpoint.load_checkpoint(out / "checkpoints" / "last").state_dict for out in runs.values())
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in a)
    for out in runs.values():
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        val = [row for row in rows if row["split"] == "val"]
        assert [row["step"] for row in val] == [3, 6]
    results = [json.loads((out / "results.json").read_text()) for out in runs.values()]
    assert results[0]["images"] == results[1]["images"] == 5
    assert len({p.name for p in (runs[2] / "checkpoints").iterdir()} - {"last", "best"}) <= 3


def test_validation_is_of_the_weights_that_are_saved(tmp_path: Path) -> None:
    """Batch norm: each process has statistics of its own since its last batch; saved are those of the first one."""
    data, out = make_data(tmp_path / "data", val=5), tmp_path / "run"
    spec, fit = {**PLAIN["spec"], "norm": True}, {**PLAIN["fit"], "epochs": 1}
    finish(start(2, {"data": str(data), "out": str(out), "spec": spec, "fit": fit}))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    (seen,) = [row["loss"] for row in rows if row["split"] == "val"]
    dataset, own = open_dataset(data / "val.json"), TinySpec(**spec)
    detector = own.build(dataset.classes)
    detector.load_state_dict(checkpoint.load_checkpoint(out).state_dict)
    fabric = Fabric(accelerator="cpu", devices=1)
    alone = Validator(fabric, dataset, own, 0, batch=1, workers=0, split="val")(detector)
    assert seen == pytest.approx(alone.losses["loss"], rel=1e-6)


ACROSS = """
import torch
from foveal.parts.losses.normalizers import Positives
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
keep, positive = torch.ones(2, 4), torch.zeros(2, 4, dtype=torch.bool)
positive[0, : (2, 0)[rank]] = True
mean = Positives(across_ranks=True)
with torch.no_grad():  # validation: three batches here, one there, and nobody waits
    for _ in range((3, 1)[rank]):
        assert mean(keep, positive).tolist() == [[(0.5, 1.0)[rank]]] * 2
assert mean(keep, positive).tolist() == [[1.0], [1.0]]  # 2 and 0 positives: each divides by their mean
positive[1] = rank == 1
assert torch.allclose(mean(keep, positive), torch.tensor(1 / 3))
torch.distributed.destroy_process_group()
"""


def test_positive_counts_across_ranks(tmp_path: Path) -> None:
    (tmp_path / "across.py").write_text(ACROSS)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(tmp_path / "across.py")]
    finish(launch([sys.executable, *command]))


# what a two-process run leaves behind; each process writes a file of its own
PARTED = """
import json, os, sys, threading
from pathlib import Path
import torch
from foveal.errors import FovealError
from foveal.training.loop.loop import Loop
from tests.helpers.train_tiny import FIT, TinySpec, train_tiny
from dataclasses import replace

data, out, how, devices = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
spec = TinySpec(fit=replace(FIT, epochs=1))
failure = {"error": FovealError("no"), "interrupt": KeyboardInterrupt()}.get(how)
if failure is not None:
    original = Loop._update
    def failing(self, parts, files):
        original(self, parts, files)
        raise failure
    Loop._update = failing
for turn in range(2):  # the second one meets anew
    try:
        train_tiny(data, out / str(turn), spec, devices=devices, tensorboard=True)
        assert failure is None
    except type(failure) if failure is not None else ():
        pass
    assert not torch.distributed.is_initialized()
    tasks, named = Path("/proc/self/task"), []
    for task in tasks.iterdir() if tasks.is_dir() else ():
        try:
            named.append((task / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            pass
    assert not [name for name in named if "gloo" in name], named
    others = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    assert not others, others
(out / f"parted-{os.environ['LOCAL_RANK']}").touch()
"""


@pytest.mark.parametrize("launcher", ["torchrun", "own"])
@pytest.mark.parametrize("how", ["success", "error", "interrupt"])
def test_process_group_is_torn_down(tmp_path: Path, launcher: str, how: str) -> None:
    """However a run ends: no process group or thread of one is left, status 0 and no message about it."""
    data = make_data(tmp_path / "data")
    (tmp_path / "out").mkdir()
    (tmp_path / "parted.py").write_text(PARTED)
    own = [str(tmp_path / "parted.py"), str(data), str(tmp_path / "out"), how, "2"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    output = finish(launch([sys.executable, *(torchrun if launcher == "torchrun" else []), *own]))
    # the first process waits for its children, so that both are done
    assert {p.name for p in (tmp_path / "out").glob("parted-*")} == {"parted-0", "parted-1"}, output
    for word in ("terminate", "leaked", "destroy_process_group", "Traceback", "Exception ignored"):
        assert word not in output, output


@pytest.mark.parametrize(
    ("victim", "said"),
    [
        (1, "process 1 died (signal 9): perhaps memory ran out. Continue with --resume"),
        pytest.param(0, "the first process of this training run has ended", marks=pytest.mark.slow),
    ],
)
def test_a_killed_process_is_named(tmp_path: Path, victim: int, said: str) -> None:
    """As by the out-of-memory killer: one line, no traceback of gloo, nobody waits, and the run can be resumed."""
    data, out = make_data(tmp_path / "data"), tmp_path / "run"
    options = ["--epochs", "300", "--batch", "4", "--workers", "0", "--no-report", "--devices", "2", "--device", "cpu"]
    words = ["train", "retinanet_mini", "--data", str(data / "train.json"), "--val", str(data / "val.json")]
    words += ["--out", str(out), *options, "input.short=64", "head.depth=1"]
    process = launch([sys.executable, "-m", "foveal", *words])
    try:
        deadline = time.monotonic() + 200
        while not list(out.glob("checkpoints/step-*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        children = [p.pid for p in psutil.Process(process.pid).children()]
        os.kill([process.pid, *children][victim], signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == (1 if victim else -signal.SIGKILL), output
    assert said in output.splitlines()[-1], output
    for word in ("Traceback", "bug of foveal", "gloo/transport"):
        assert word not in output, output
    assert checkpoint.newest(out / "checkpoints") is not None
