"""The device, processes and precision of a run, and the environment that its record describes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric

from ..errors import FovealError, UsageError
from ..recipe import Precision
from .precision import choose, plugin


def find_device(asked: str) -> torch.device:
    """``auto`` is the first GPU where there is one. Raises :class:`UsageError` for a device that is not available."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except RuntimeError:
        raise UsageError(f"device {asked!r} is not one of auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {asked!r} is not one of auto, cpu, cuda, cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(f"device {asked!r} is not available; torch can use {count} GPUs on this machine")
    return device


def choose_precision(stored: str | None, asked: str | None, device: torch.device) -> Precision:
    """The stored one of a resumed run; else the one asked for, else the fastest of the device."""
    if stored is not None and asked not in (None, stored):
        raise UsageError(f"the run was started with --precision {stored}; it cannot be resumed with {asked}")
    return choose(stored or asked, device)


def launch(device: torch.device, devices: int | None, precision: Precision) -> Fabric:
    """Fabric over one process, over ``devices`` processes of this machine, or over what torchrun started."""
    count: int | list[int] = devices or 1
    nodes = 1
    if "TORCHELASTIC_RUN_ID" in os.environ:
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        if devices not in (None, local):
            raise UsageError(f"torchrun started {local} processes on this machine, but --devices is {devices}")
        count, nodes = local, int(os.environ["WORLD_SIZE"]) // local
    several = count != 1 or nodes > 1
    if device.type == "cuda" and device.index is not None and not several:
        count = [device.index]
    fabric = Fabric(
        accelerator=device.type,
        devices=count,
        num_nodes=nodes,
        strategy="ddp" if several else "auto",
        plugins=[plugin(precision, device)],
    )
    from . import process_group

    process_group.join(fabric, several=several)
    return fabric


def first_process() -> bool:
    """Whether this is the process that writes, of several that train together; known before there is a fabric."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def first_alone(fabric: Fabric, work: Callable[[], list[str]]) -> list[str]:
    """Runs ``work`` in the first process while the others wait. If it fails all raise: they would wait forever."""
    outcome: list[str] | Exception = []
    if fabric.is_global_zero:
        try:
            outcome = work()
        except (FovealError, OSError) as error:
            if fabric.world_size == 1:
                raise
            outcome = error
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def workers(asked: int | None, device: torch.device) -> int:
    """The number of processes that load images. On two cores a worker would only take time from the training."""
    if asked is not None:
        return asked
    if device.type == "cuda":
        return max(1, min(8, cores() - 1))
    return 0 if cores() <= 2 else 2


def versions() -> dict[str, str]:
    """Versions of Python, this package and those that affect the results."""
    names = ("foveal", "torch", "torchvision", "numpy", "lightning-fabric", "safetensors")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def describe_environment(fabric: Fabric) -> dict[str, Any]:
    """The environment of a run, for ``run.json``."""
    cuda = fabric.device.type == "cuda"
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name(fabric.device) if cuda else platform.processor() or platform.machine(),
        "device": fabric.device.type,
        "processes": fabric.world_size,
        "threads": torch.get_num_threads(),
    }


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
