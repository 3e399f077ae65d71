"""Trains a small detector where something runs out or dies, and looks at what is said and left.

    python benchmarks/fault_limits.py
    python benchmarks/fault_limits.py full_disk worker_killed

A small disk, one that another program fills, files of limited size, a read-only data folder, a /dev/shm of 16 kB, few
open files, a limit on the address space, a killed process among those that load images, a killed one of two that
train. Each ends
in time with one line that says what is wrong (or trains, where nothing is), leaves whole checkpoints alone, and can be
resumed to the bits of an undisturbed run. What needs a mount is skipped, with the reason, where that is refused.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from forked import Ended, Process, load_everything
from resume_chaos import QUIET, REPOSITORY, SCRIPT, outcome

SECONDS = 240.0  # until a run is taken to hang
BALLAST = "ballast"
NEW_MOUNTS = 0x20000  # CLONE_NEWNS


class Refused(Exception):
    """This machine does not allow what a case needs."""


def nothing() -> None:
    """No limit."""


def few_files() -> None:
    """Descriptors of the process, and a few more."""
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 6, used + 6))


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def little_memory() -> None:
    """The address space of the process, and 40 MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (40 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def mounted(*words: str) -> None:
    """Mounts something that this process and its children alone see. Raises :class:`Refused`."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(NEW_MOUNTS):
        raise Refused(f"no mounts of its own ({os.strerror(ctypes.get_errno())})")
    for command in (["--make-rprivate", "/"], list(words)):
        done = subprocess.run(["mount", *command], capture_output=True, text=True)
        if done.returncode:
            raise Refused(done.stderr.strip())


def tiny_shm() -> None:
    mounted("-t", "tmpfs", "-o", "size=16k", "tmpfs", "/dev/shm")


def read_only_data() -> None:
    mounted("--bind", "shapes", "shapes")
    if subprocess.run(["mount", "-o", "remount,bind,ro", "shapes"], capture_output=True).returncode:
        raise Refused("a read-only mount is refused")


def kill_a_child(process: Process) -> None:
    """Kills the first process that a training starts, a moment after it has begun to train."""
    import psutil

    deadline = time.monotonic() + SECONDS
    while not process.wait(0.02) and time.monotonic() < deadline:
        children = psutil.Process(process.pid).children()
        if children and any(process.folder.glob("run/checkpoints/step-*")):
            os.kill(children[0].pid, signal.SIGKILL)
            return


def fill_the_disk(process: Process) -> None:
    """Writes to the disk of the run until it is full, a moment after it has begun to train."""
    run = process.folder / "run"
    while not process.wait(0.02) and not any(run.glob("checkpoints/step-*")):
        pass
    try:
        with (run / BALLAST).open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass


def leave(process: Process) -> None:
    """Nothing is killed."""


@dataclass(frozen=True)
class Case:
    name: str
    wanted: Sequence[str]  # one of these is in the message; empty: it trains
    limit: Callable[[], None] = nothing  # called in the process
    during: Callable[[Process], None] = leave  # called with the process
    options: Sequence[str] = ()
    disk: int = 0  # bytes of the run's own disk


CASES = (
    Case("small_disk", ("are free",), disk=700_000),
    Case("full_disk", ("no space left", "No space left"), during=fill_the_disk, disk=20 << 20),
    Case("small_files", ("no space left", "File too large", "too large"), small_files),
    Case("read_only_data", (), read_only_data),
    Case("tiny_shm", ("shared memory", "/dev/shm"), tiny_shm, options=("--workers", "2")),
    Case("few_files", ("open files",), few_files, options=("--workers", "2")),
    Case("little_memory", ("memory",), little_memory, options=("--batch", "8", "input.short=800", "input.long=1333")),
    Case("worker_killed", ("died", "killed", "memory"), during=kill_a_child, options=("--workers", "1")),
    Case("process_killed", ("died", "ended"), during=kill_a_child, options=("--devices", "2")),
)


class Trial:
    """One case in a folder of its own."""

    def __init__(self, case: Case, root: Path) -> None:
        self.case, self.root = case, root
        self.words = ["train", "model", "--data", "shapes", "--precision", "32", "--workers", "0", *QUIET]
        self.words += ["--save-every", "0.001", *case.options]

    def start(self, out: str, limit: Callable[[], None], *more: str) -> Process:
        def call() -> None:
            from foveal.cli.main import run

            limit()
            sys.argv = [str(self.root / "training.py"), *self.words, "--out", out, *more]
            run()

        logs = self.root / f"logs-{out}"
        logs.mkdir(exist_ok=True)
        return Process(call, self.root, logs)

    def run(self) -> list[str]:
        """What is wrong. Raises :class:`Refused`."""
        case, run = self.case, self.root / "run"
        whole = self.start("whole", nothing).finish(SECONDS)
        if case.name != "little_memory" and whole.status:
            return [f"fails without a limit: {whole.err[-300:]}"]
        run.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={case.disk}", "tmpfs", str(run)]
        if case.disk and subprocess.run(mount, capture_output=True).returncode:
            raise Refused("a tmpfs cannot be mounted")
        try:
            process = self.start("run", case.limit)
            case.during(process)
            ended = process.finish(SECONDS)
            if "Refused" in ended.err:
                raise Refused(ended.err.strip().splitlines()[-1])
            wrong = self._said(ended) + self._left(run)
            if case.disk:
                subprocess.run(["mount", "-o", "remount,size=100M", str(run)], check=True)
                (run / BALLAST).unlink(missing_ok=True)
            if case.name != "little_memory":
                again = self.start("run", nothing, "--resume").finish(SECONDS)
                if again.status:
                    wrong.append(f"cannot be resumed: {again.err[-300:]}")
                elif outcome(run) != outcome(self.root / "whole"):
                    wrong.append("resumed to other bits")
            return wrong
        finally:
            if case.disk:
                subprocess.run(["umount", str(run)], capture_output=True)

    def _said(self, ended: Ended) -> list[str]:
        text = ended.err.strip()
        last = text.splitlines()[-1] if text else ""
        print(f"  status {ended.status}: {last}", flush=True)
        if ended.status == -1:
            return ["hangs"]
        wrong = ["a traceback or a bug"] if "Traceback" in text or "bug of foveal" in text else []
        if wrong:
            print("    | " + "\n    | ".join(text.splitlines()[-30:]))
        if not self.case.wanted:
            return wrong + ([f"status {ended.status}"] if ended.status else [])
        if ended.status != 1:
            wrong.append(f"status {ended.status}")
        if not last.startswith("foveal: ") or not any(word in last for word in self.case.wanted):
            wrong.append("the cause is not named")
        return wrong

    @staticmethod
    def _left(run: Path) -> list[str]:
        from foveal.checkpoints import folder

        wrong = []
        for step in folder.steps(run / "checkpoints"):
            try:
                folder.read(run / "checkpoints" / f"step-{step}")
            except Exception as error:
                wrong.append(f"a damaged checkpoint: {error}")
        partial = [p.name for p in run.rglob("*") if p.name.endswith(".part") or p.name.startswith(".writing")]
        return wrong + [f"left over: {name}" for name in partial]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(case.name for case in CASES)}; default: all")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    os.environ["OMP_NUM_THREADS"] = "1"
    load_everything()
    from fault_scenarios import small_model

    bad = 0
    for case in CASES:
        if options.names and case.name not in options.names:
            continue
        with tempfile.TemporaryDirectory(prefix="foveal-limits-") as folder:
            root = Path(folder)
            (root / "training.py").write_text(SCRIPT)
            Process(small_model, root, root).finish(SECONDS)
            try:
                wrong = Trial(case, root).run()
            except Refused as error:
                print(f"{case.name}: skipped: {error}")
                continue
        bad += bool(wrong)
        print(f"{case.name}: {'; '.join(wrong) or 'survived'}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
