"""Joins and leaves the process group of a distributed training run, and shuts down its processes.

A thread of a process group that needs Python during interpreter shutdown (for a callback, for instance) is terminated
by Python in the middle of C++ code, and the process aborts ("terminate called without an active exception"): a
completed training run would count as failed. So no thread of a process group outlives the training run.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.launchers import subprocess_script
from torch._C._distributed_c10d import TCPStore
from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from ..errors import FovealError
from . import launchers
from .interrupt import Interrupt, Terminated

TIMEOUT = 30.0  # seconds for a thread or process to end; usually it ends at once, on a busy machine it may take some
MEETING = 180.0  # seconds for the processes of a launcher to find each other
PATIENCE = 10.0  # seconds for a process to notice by itself that another one was killed
STATUS = 1  # of a process that ends because another one died
TERMINATED = 128 + signal.SIGTERM  # of one that was asked to end, as a cluster asks all processes of a job


class ProcessDied(FovealError):
    """Another process of the training run has ended, so that this one cannot go on."""


@dataclass
class _GroupState:
    """State of this process' groups that outlives them, until the interpreter exits."""

    store: Any = None  # rendezvous store; one for all groups, since its port cannot be passed on
    groups: int = 0  # number of groups left so far
    rank: int = 0
    size: int = 1
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)  # processes that this one started
    running: bool = False  # a training run is under way
    failed: bool = False


_state = _GroupState()


@contextmanager
def together() -> Iterator[None]:
    """Leaves the process group that was joined inside the block, on errors too; a group of the caller is not touched.

    After an error, the local variables in its traceback are cleared, since they reference the group.
    """
    if _joined():
        yield
        return
    before = sys.exc_info()[1]
    _state.running = True
    try:
        yield
    except BaseException as error:
        _leave(error, before)
        raise
    _leave(None)


def join_group(fabric: Fabric, *, distributed: bool) -> None:
    """Launches Fabric: starts the other processes where this one has to, and joins their group if ``distributed``."""
    # Fabric joins a group only where none is initialized
    if distributed and _state.store is not None and not _joined():
        backend = "nccl" if fabric.device.type == "cuda" else "gloo"
        store = PrefixStore(f"group-{_state.groups}", _state.store)
        torch.distributed.init_process_group(backend, store=store, rank=_state.rank, world_size=_state.size)
        if _state.children:
            threading.Thread(target=_watch, args=(_state.children,), daemon=True).start()
    started = launchers.external()
    if distributed and started is None and _is_child() and _state.groups == 0:
        threading.Thread(target=_live_with_parent, args=(os.getppid(),), daemon=True).start()
    if distributed and started is not None and started[0] != "torchrun" and not _joined():
        _meet_first(started[0], "nccl" if fabric.device.type == "cuda" else "gloo")
    observed = subprocess_script._launch_process_observer
    subprocess_script._launch_process_observer = _take_over  # Fabric's kills this process without a word
    try:
        fabric.launch()
    finally:
        subprocess_script._launch_process_observer = observed


def _is_child() -> bool:
    """Whether the first process of the run started this one."""
    return launchers.external() is None and os.environ.get("LOCAL_RANK", "0") != "0"


def _live_with_parent(parent: int) -> None:
    """Ends this process some time after the first one was killed, if it has not noticed: it may wait for it forever."""
    while os.name == "posix" and os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(PATIENCE)
    if _state.running:
        os._exit(STATUS)


def _meet_first(launcher: str, backend: str) -> None:
    """Joins the group of the processes that a launcher started, which may never come: a script of sbatch is one."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(host, port, size, rank == 0, timeout=timedelta(seconds=MEETING))
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    except DistError as error:
        reason = " ".join(str(error).split())[:120]
        raise ProcessDied(
            f"{launcher} has {size} processes for this run, and they did not meet at {host}:{port} ({reason})",
            fix=f"Start all {size} at once (srun, mpirun), set MASTER_PORT if that port is taken, or ask for one task",
        ) from None


@contextmanager
def deaths_explained(out: Path) -> Iterator[None]:
    """Turns the error of a broken connection into a :class:`ProcessDied` that says which process ended, and how."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, DistError) or "gloo" in str(error) or "NCCL" in str(error)):
            raise
        died = _death(_state.children, out, wait=5.0)
        if any(child.poll() == TERMINATED for child in _state.children):
            raise Terminated from None
        if died is None:
            others = "the first process" if _is_child() else "another process"
            died = ProcessDied(f"{others} of this training run has ended", path=out, fix=_FIX)
        raise died from None


_FIX = "Continue with --resume; with fewer processes or a smaller --batch if memory is short"


def _death(children: list[subprocess.Popen[bytes]], out: Path | None, wait: float = 0.0) -> ProcessDied | None:
    """The error for the child that died first to be seen, for which it waits; None: all of them live or did well."""
    deadline = time.monotonic() + wait
    while True:
        for rank, child in enumerate(children, 1):
            status = child.poll()
            if status is not None and status < 0:
                cause = ": perhaps memory ran out" if -status == signal.SIGKILL else ""
                return ProcessDied(f"process {rank} died (signal {-status}){cause}", path=out, fix=_FIX)
            if status:
                return ProcessDied(f"process {rank} ended with status {status}, see its message", path=out, fix=_FIX)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.05)


def _watch(children: list[subprocess.Popen[bytes]]) -> None:
    """Ends this process some time after a child died, if it has not noticed: it may wait for the child forever."""
    while _state.running and any(child.poll() is None for child in children):
        if _death(children, None) is not None:
            break
        time.sleep(1.0)
    died, deadline = _death(children, None), time.monotonic() + PATIENCE
    while died is not None and _state.running:
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
            sys.stderr.write(f"foveal: {died}\n")
            sys.stderr.flush()
            os._exit(STATUS)
        time.sleep(0.5)


def meet(fabric: Fabric) -> None:
    """Waits for all processes at the end of a run. Rank 0, which has written everything, ignores failures of others."""
    try:
        fabric.barrier()
    except RuntimeError:
        if not fabric.is_global_zero:
            raise


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _take_over(child_processes: list[subprocess.Popen[Any]]) -> None:
    """Watches the processes that Fabric started, and waits for them at exit."""
    children = child_processes
    _state.children = children
    atexit.register(_end, children)
    threading.Thread(target=_watch, args=(children,), daemon=True).start()


def _leave(error: BaseException | None, before: BaseException | None = None) -> None:
    """Leaves the group and waits until its threads have ended. ``before``: an error that was being handled already."""
    _state.failed, _state.running = error is not None, False
    if not _joined():
        return
    with Interrupt() as interrupt:
        _state.rank, _state.size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if _state.store is None:
            _state.store = _get_default_store()
        _state.groups += 1
        group: list[Any] = [torch.distributed.group.WORLD]
        torch.distributed.destroy_process_group()
        if error is not None:
            _clear_frames(error, before)
        gc.collect()  # frees a detector in a reference cycle
        # The last reference waits for the group's threads. After an error one of them may be communicating with
        # a process that waits for this one to end, so this wait is bounded.
        last = threading.Thread(target=group.clear, daemon=True)
        last.start()
        last.join(TIMEOUT)
    if error is None:
        interrupt.check()


def _clear_frames(error: BaseException, before: BaseException | None) -> None:
    """Clears the tracebacks' frames of an error and its causes, up to ``before``."""
    seen: set[BaseException | None] = {None, before}
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is not None and current not in seen:
            seen.add(current)
            traceback.clear_frames(current.__traceback__)
            pending += [current.__cause__, current.__context__]


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    """At exit: waits for the processes that this one started, which need its store until they end.

    After an error those that do not end are killed. After success they may still be running code of the user.
    """
    deadline = time.monotonic() + TIMEOUT
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            if _state.failed:
                child.kill()
                child.wait()
    _state.store = None
