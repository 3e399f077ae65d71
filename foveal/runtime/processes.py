"""Chooses the processes of a run, and describes its environment."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from ..errors import FovealError, UsageError
from ..recipe import Precision
from . import launchers
from .precision import choose, cpu_features, plugin


def choose_precision(stored: str | None, requested: str | None, device: torch.device) -> Precision:
    """The stored precision of a resumed run; else the requested one, else the fastest of the device.

    Raises :class:`UsageError` where another precision than the stored one is requested.
    """
    if stored is not None and requested not in (None, stored):
        raise UsageError(
            f"the run was started with --precision {stored}, and not {requested}",
            fix="Leave --precision out, or change it on purpose: --resume --accept precision",
        )
    return choose(stored or requested, device)


def launch(device: torch.device, devices: int | None, precision: Precision) -> Fabric:
    """A launched Fabric with one process, ``devices`` processes on this machine, or those that a launcher started.

    Raises :class:`UsageError` where a launcher started another number of processes than ``devices``, or where this
    program cannot be started again.
    """
    count: int | list[int] = devices or 1
    nodes = 1
    started = launchers.external()
    if started is not None:
        launcher, local, nodes = started
        if devices not in (None, local):
            fix = f"Leave --devices out, or have {launcher} start one process"
            here = f"{launcher} started {local} processes on this machine"
            raise UsageError(f"{here}, and --devices is {devices}", fix=fix)
        count = local
    distributed = count != 1 or nodes > 1
    if distributed and started is None and "LOCAL_RANK" not in os.environ:
        launchers.check_script(devices or 1)
    plugins: list[Any] = [plugin(precision, device)]
    if started is None or started[0] != "torchrun":  # else Fabric would look for a cluster itself
        plugins.append(LightningEnvironment())
    if device.type == "cuda" and device.index is not None and not distributed:
        count = [device.index]
    fabric = Fabric(
        accelerator=device.type,
        devices=count,
        num_nodes=nodes,
        strategy="ddp" if distributed else "auto",
        plugins=plugins,
    )
    from . import process_group

    process_group.join_group(fabric, distributed=distributed)
    return fabric


def first_process() -> bool:
    """Whether this is rank 0, the process that writes files; known before there is a Fabric."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def first_alone(fabric: Fabric, function: Callable[[], list[str]]) -> list[str]:
    """Runs ``function`` on rank 0 while the others wait, and returns its result on all.

    An error is raised on all ranks, since the others would wait forever.
    """
    outcome: list[str] | Exception = []
    if fabric.is_global_zero:
        try:
            outcome = function()
        except (FovealError, OSError) as error:
            if fabric.world_size == 1:
                raise
            outcome = error
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def workers(requested: int | None, device: torch.device) -> int:
    """The number of data loading processes. On two cores a worker would only slow down training."""
    if requested is not None:
        return requested
    if device.type == "cuda":
        return max(1, min(8, cores() - 1))
    return 0 if cores() <= 2 else 2


def versions() -> dict[str, str]:
    """Versions of Python, this package and the packages that affect the results."""
    names = ("foveal", "torch", "torchvision", "numpy", "lightning-fabric", "safetensors")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def describe_environment(fabric: Fabric) -> dict[str, Any]:
    """The environment of a run, for ``run.json``."""
    cuda = fabric.device.type == "cuda"
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name(fabric.device) if cuda else platform.processor() or platform.machine(),
        "features": cpu_features(),
        "device": fabric.device.type,
        "processes": fabric.world_size,
        "threads": torch.get_num_threads(),
    }


def cores() -> int:
    """The number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
