"""A loss that is not finite stops the run. The update was skipped on the device; here it is noticed and explained."""

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
from ...types import Images, Targets
from .update import Result

DEPTH = 2  # updates in flight at most before the oldest is waited for


class NonFiniteLoss(FovealError):
    """The loss or its gradients became infinite or undefined; the weights are those before that update."""


@dataclass(frozen=True)
class Pending:
    """An update whose flag is on its way to the host, with all that a report needs."""

    flag: Tensor  # () on the host
    arrived: torch.cuda.Event | None
    step: int
    lr: float
    result: Result
    parts: Sequence[tuple[Images, Targets]]
    files: Sequence[str]


class Guard:
    """Looks at the flags of past updates without making the device wait for the host."""

    def __init__(self, out: Path, rank: int, names: Sequence[str]) -> None:
        self.out, self.rank, self.names = out, rank, names
        self.pending: deque[Pending] = deque()

    def push(
        self, result: Result, parts: Sequence[tuple[Images, Targets]], files: Sequence[str], step: int, lr: float
    ) -> None:
        """Starts the transfer of an update's flag."""
        flag, arrived = result.bad, None
        if flag.is_cuda:
            flag = torch.empty((), pin_memory=True)
            flag.copy_(result.bad, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self.pending.append(Pending(flag, arrived, step, lr, result, parts, files))

    def check(self, *, wait: bool = False) -> None:
        """Raises :class:`NonFiniteLoss` for the first bad update that is known; ``wait`` looks at all of them."""
        while self.pending:
            oldest = self.pending[0]
            if oldest.arrived is not None and not oldest.arrived.query():  # type: ignore[no-untyped-call]
                if not wait and len(self.pending) <= DEPTH:
                    return
                oldest.arrived.synchronize()
            self.pending.popleft()
            if oldest.flag.item():
                raise self._error(oldest)

    def _error(self, found: Pending) -> NonFiniteLoss:
        losses = {name: float(value) for name, value in found.result.losses.items()}
        folder = self.out / "nonfinite" / f"step-{found.step}-rank-{self.rank}"
        save_batch(folder, found, losses, self.names)
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        what = f"the loss is not finite ({', '.join(bad)})" if bad else "the gradients are not finite"
        parts = ", ".join(f"{name}={value:.4g}" for name, value in losses.items())
        return NonFiniteLoss(
            f"{what} in update {found.step}: {parts}; learning rate {found.lr:.4g}; images {', '.join(found.files)}",
            path=self.out,
            fix=f"Look at those images (the weights were not updated, and the batch is in {folder}), or try a lower "
            f"fit.lr, fit.clip=10, more fit.warmup_steps or --precision 32 in a new run with --weights {self.out}",
        )


def save_batch(folder: Path, found: Pending, losses: dict[str, float], names: Sequence[str]) -> None:
    """``batch.safetensors`` (``I/pixels``, ``I/boxes``, ... for part I) and ``batch.json``, enough to run it again."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for index, (images, targets) in enumerate(found.parts):
        for name in ("pixels", "sizes", "frame", "original"):
            tensors[f"{index}/{name}"] = getattr(images, name).cpu().contiguous()
        for name in ("boxes", "labels", "valid", "ignore"):
            tensors[f"{index}/{name}"] = getattr(targets, name).cpu().contiguous()
    safetensors.torch.save_file(tensors, folder / "batch.safetensors")
    report = {
        "step": found.step,
        "lr": found.lr,
        "losses": {name: value if math.isfinite(value) else str(value) for name, value in losses.items()},
        "images": list(found.files),
        "classes": list(names),
    }
    (folder / "batch.json").write_text(
        json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace"
    )
