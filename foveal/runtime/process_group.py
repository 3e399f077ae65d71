"""Joins and leaves the process group of a distributed training run, and shuts down its processes.

A thread of a process group that needs Python during interpreter shutdown (for a callback, for instance) is terminated
by Python in the middle of C++ code, and the process aborts ("terminate called without an active exception"): a
completed training run would count as failed. So no thread of a process group outlives the training run.
"""

from __future__ import annotations

import atexit
import gc
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from .interrupt import Interrupt

TIMEOUT = 30.0  # seconds for a thread or process to end; usually it ends at once, on a busy machine it may take some


@dataclass
class _GroupState:
    """State of this process' groups that outlives them, until the interpreter exits."""

    store: Any = None  # rendezvous store; one for all groups, since its port cannot be passed on
    groups: int = 0  # number of groups left so far
    rank: int = 0
    size: int = 1
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)  # processes that this one started
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
    try:
        fabric.launch()
    finally:
        _take_over_children(fabric)


def meet(fabric: Fabric) -> None:
    """Waits for all processes at the end of a run. Rank 0, which has written everything, ignores failures of others."""
    try:
        fabric.barrier()
    except RuntimeError:
        if not fabric.is_global_zero:
            raise


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _take_over_children(fabric: Fabric) -> None:
    """Takes over the processes that Fabric started, since it would not wait for them at exit."""
    launcher: Any = getattr(fabric.strategy, "launcher", None)
    started: list[subprocess.Popen[bytes]] = getattr(launcher, "procs", [])
    if started:
        _state.children = started  # the same list: Fabric's observer polls it until it is empty
        atexit.register(_end, list(started))


def _leave(error: BaseException | None, before: BaseException | None = None) -> None:
    """Leaves the group and waits until its threads have ended. ``before``: an error that was being handled already."""
    _state.failed = error is not None
    # Fabric kills this process when a child fails, and the children are no longer needed
    _state.children.clear()
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
