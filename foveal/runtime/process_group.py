"""Several processes that train together: how they meet, how they part, and who waits for whom.

A thread of a process group that needs Python while the interpreter ends (a callback, say) is ended by Python in the
middle of C++ code, and the process aborts ("terminate called without an active exception"): a training that is done
would count as failed. So no thread of a process group outlives the training.
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

PATIENCE = 30.0  # seconds for a thread or a process that should end at once; it takes some on a machine that is busy


@dataclass
class _Kept:
    """What stays of the groups of this process until the interpreter ends."""

    store: Any = None  # where processes find each other; one for all groups, since its port cannot change hands
    groups: int = 0  # left so far
    rank: int = 0
    size: int = 1
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)  # that this process started
    failed: bool = False


_kept = _Kept()


@contextmanager
def together() -> Iterator[None]:
    """Leaves the process group that was joined within, however that ends; a group of the caller's is not touched.

    Where it ends with an error, the variables of the error's frames are cleared: they hold the group.
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


def join(fabric: Fabric, *, several: bool) -> None:
    """Starts the other processes where that is up to this one, and joins their group, where there are several."""
    if several and _kept.store is not None and not _joined():  # Fabric only joins where nobody has
        backend = "nccl" if fabric.device.type == "cuda" else "gloo"
        store = PrefixStore(f"group-{_kept.groups}", _kept.store)
        torch.distributed.init_process_group(backend, store=store, rank=_kept.rank, world_size=_kept.size)
    try:
        fabric.launch()
    finally:
        _adopt(fabric)


def meet(fabric: Fabric) -> None:
    """Waits for all at the end of a run. The first process, which has written everything, can do without the others."""
    try:
        fabric.barrier()
    except RuntimeError:
        if not fabric.is_global_zero:
            raise


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _adopt(fabric: Fabric) -> None:
    """Takes the processes that Fabric started: it would not wait for them at the end."""
    launcher: Any = getattr(fabric.strategy, "launcher", None)
    started: list[subprocess.Popen[bytes]] = getattr(launcher, "procs", [])
    if started:
        _kept.children = started  # the list itself: Fabric's observer looks at it until it is empty
        atexit.register(_end, list(started))


def _leave(error: BaseException | None, before: BaseException | None = None) -> None:
    """Leaves the group and waits until its threads have ended. ``before``: an error that was there already."""
    _kept.failed = error is not None
    # Fabric kills this process when a child fails, and nobody needs the children any more
    _kept.children.clear()
    if not _joined():
        return
    with Interrupt() as interrupt:
        _kept.rank, _kept.size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if _kept.store is None:
            _kept.store = _get_default_store()
        _kept.groups += 1
        group: list[Any] = [torch.distributed.group.WORLD]
        torch.distributed.destroy_process_group()
        if error is not None:
            _clear_frames(error, before)
        gc.collect()  # of a detector in a cycle
        # The last reference waits for the group's threads. After an error one of them may be in an exchange with a
        # process that waits for this one to end, so this wait is bounded.
        last = threading.Thread(target=group.clear, daemon=True)
        last.start()
        last.join(PATIENCE)
    if error is None:
        interrupt.check()


def _clear_frames(error: BaseException, before: BaseException | None) -> None:
    """Of an error and those that it came from, up to ``before``."""
    seen: set[BaseException | None] = {None, before}
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and each not in seen:
            seen.add(each)
            traceback.clear_frames(each.__traceback__)
            waiting += [each.__cause__, each.__context__]


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    """At exit: waits for the processes that this one started, which need its store to the last.

    After an error those that do not end are ended. After success they may be busy with something of their own.
    """
    until = time.monotonic() + PATIENCE
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            if _kept.failed:
                child.kill()
                child.wait()
    _kept.store = None
