"""Stops the run at a non-finite loss: its iteration was skipped on the device; this finds and reports it."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ...errors import FovealError
from ...files.atomic import write_bytes, write_text
from ...types import Images, Targets
from .update import Result

DEPTH = 2  # iterations whose flags may be in transfer before the oldest is waited for


class NonFiniteLoss(FovealError):
    """The loss or its gradients became infinite or NaN; the weights are those before that iteration."""


@dataclass(frozen=True)
class CheckedIteration:
    """An iteration whose flag is being transferred to the CPU, with all that a report needs."""

    flag: Tensor  # () on the CPU
    arrived: torch.cuda.Event | None
    step: int
    lr: float
    result: Result
    parts: Sequence[tuple[Images, Targets]]
    files: Sequence[str]


class NonFiniteCheck:
    """Reads the flags of past iterations without a synchronization of the device."""

    def __init__(self, out: Path, rank: int, classes: Sequence[str]) -> None:
        self.out, self.rank, self.classes = out, rank, classes
        self.waiting: deque[CheckedIteration] = deque()

    def push(
        self, result: Result, parts: Sequence[tuple[Images, Targets]], files: Sequence[str], step: int, lr: float
    ) -> None:
        """Starts the transfer of an iteration's flag."""
        flag, arrived = result.nonfinite, None
        if flag.is_cuda:
            flag = torch.empty((), pin_memory=True)
            flag.copy_(result.nonfinite, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self.waiting.append(CheckedIteration(flag, arrived, step, lr, result, parts, files))

    def check(self, *, wait: bool = False) -> None:
        """Raises :class:`NonFiniteLoss` for the first non-finite iteration that is known; ``wait`` reads all flags."""
        while self.waiting:
            oldest = self.waiting[0]
            if oldest.arrived is not None and not oldest.arrived.query():  # type: ignore[no-untyped-call]
                if not wait and len(self.waiting) <= DEPTH:
                    return
                oldest.arrived.synchronize()
            self.waiting.popleft()
            if oldest.flag.item():
                raise self._error(oldest)

    def _error(self, failed: CheckedIteration) -> NonFiniteLoss:
        losses = {name: float(value) for name, value in failed.result.losses.items()}
        folder = self.out / "nonfinite" / f"step-{failed.step}-rank-{self.rank}"
        save_batch(folder, failed, losses, self.classes)
        names = [name for name, value in losses.items() if not math.isfinite(value)]
        what = f"the loss is not finite ({', '.join(names)})" if names else "the gradients are not finite"
        parts = ", ".join(f"{name}={value:.4g}" for name, value in losses.items())
        return NonFiniteLoss(
            f"{what} in iteration {failed.step}: {parts}; learning rate {failed.lr:.4g}; "
            f"images {', '.join(failed.files)}",
            path=self.out,
            fix=f"Look at those images (the batch is in {folder}, the weights were not updated), or try a lower "
            f"fit.lr, fit.clip=10, more fit.warmup_steps or --precision 32, in a new run with --weights {self.out}",
        )


def save_batch(folder: Path, failed: CheckedIteration, losses: dict[str, float], classes: Sequence[str]) -> None:
    """``batch.safetensors`` (``I/pixels``, ``I/boxes``, ... for part I) and ``batch.json``, enough to run it again."""
    tensors: dict[str, Tensor] = {}
    for index, (images, targets) in enumerate(failed.parts):
        for name in ("pixels", "sizes", "frame", "original"):
            tensors[f"{index}/{name}"] = getattr(images, name).cpu().contiguous()
        for name in ("boxes", "labels", "valid", "ignore"):
            tensors[f"{index}/{name}"] = getattr(targets, name).cpu().contiguous()
    write_bytes(folder / "batch.safetensors", safetensors.torch.save(tensors))
    report = {
        "step": failed.step,
        "lr": failed.lr,
        "losses": {name: value if math.isfinite(value) else str(value) for name, value in losses.items()},
        "images": list(failed.files),
        "classes": list(classes),
    }
    write_text(folder / "batch.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n")
