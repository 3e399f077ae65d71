"""One iteration: forward, backward, non-finite check, clipping, optimizer, moving average.

Nothing here waits for the device: an iteration with a non-finite loss is skipped on the device, and its flag is read
some iterations later, which stops the run.
"""

from __future__ import annotations

import copy
import json
import math
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import safetensors.torch
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn

from ...checkpoints.folder import steps
from ...errors import FovealError
from ...files.atomic import write_bytes, write_text
from ...types import Images, Targets
from .log import Clock

ModuleT = TypeVar("ModuleT", bound=nn.Module)

STEP, VALIDATION, START = 1, 2, 3  # purposes of random numbers, so that no two share a stream
DEPTH = 2  # iterations whose flags may be in transfer before the oldest is waited for


def derive_seed(purpose: int, seed: int, *position: int) -> int:
    """A 64-bit seed from the run's seed and a position in it (step, rank, part): no generator state is saved."""
    return int(np.random.SeedSequence([purpose, seed, *position]).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Result:
    """The outcome of an iteration, on the device."""

    losses: dict[str, Tensor]  # scalars, this process' mean over the parts of the batch
    nonfinite: Tensor  # () float32: 1 where the iteration was skipped because loss or gradients were not finite


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of this iteration, times each group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


class Updater:
    """Runs the iterations of one model with one optimizer."""

    def __init__(
        self,
        fabric: Fabric,
        model: _FabricModule,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        clip: float | None,
        clock: Clock,
        learning: str | None = None,
    ) -> None:
        """``learning``: the task of a two-stage detector whose losses alone count; None: all."""
        self.fabric, self.model, self.optimizer = fabric, model, optimizer
        self.seed, self.clip, self.clock = seed, clip, clock
        self.learning = learning
        self.options = {} if learning is None else {"learning": learning}
        self.rng = torch.Generator(fabric.device)
        precision = fabric.strategy.precision
        self.scaler = precision.scaler if isinstance(precision, MixedPrecision) else None

    def __call__(self, parts: Sequence[tuple[Images, Targets]], step: int) -> Result:
        """``parts`` are run one after the other and their gradients averaged. A non-finite loss does not raise here."""
        losses: dict[str, Tensor] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for index, (images, targets) in enumerate(parts):
            seed = derive_seed(STEP, self.seed, step, self.fabric.global_rank, index)
            torch.manual_seed(seed)  # dropout
            self.rng.manual_seed(seed)  # sampling
            last = index == len(parts) - 1
            with nullcontext() if last else self.fabric.no_backward_sync(self.model):
                with self.clock.measure("forward"):
                    part_losses: dict[str, Tensor] = self.model(images, targets, rng=self.rng, **self.options)
                    loss = torch.stack(list(part_losses.values())).sum() / len(parts)
                with self.clock.measure("backward"):
                    self.fabric.backward(loss)
            for name, value in part_losses.items():
                part = value.detach().float() / len(parts)
                losses[name] = losses[name] + part if name in losses else part
        with self.clock.measure("backward"):
            nonfinite = self._update(torch.stack(list(losses.values())).sum())
        return Result(losses, nonfinite)

    def _update(self, loss: Tensor) -> Tensor:
        """Applies the gradients. If loss or gradients are not finite, weights and optimizer stay as they are."""
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if self.scaler is not None:
            return self._update_scaled(self.scaler, loss, gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        # gradients agree on all ranks, the loss is each rank's own
        nonfinite = self._on_any_rank((~torch.isfinite(norm + loss)).float())
        fused = cast(Any, self.optimizer)
        fused.found_inf = nonfinite  # the fused kernels read it on the device
        if self.clip is not None:
            fused.grad_scale = (norm / self.clip).clamp(min=1).float()
        self.optimizer.step()
        return nonfinite

    def _update_scaled(self, scaler: torch.amp.GradScaler, loss: Tensor, gradients: list[Tensor]) -> Tensor:
        """fp16: scaled gradients may overflow (the scaler skips and halves its factor); the loss may not."""
        scaler.unscale_(self.optimizer)
        if self.clip is not None:
            norm = torch.nn.utils.get_total_norm(gradients)
            torch._foreach_mul_(gradients, (self.clip / (norm + 1e-6)).clamp(max=1))
        scaler.step(self.optimizer)
        scaler.update()
        return self._on_any_rank((~torch.isfinite(loss)).float())

    def _on_any_rank(self, flag: Tensor) -> Tensor:
        """1 where the flag () is 1 in any process."""
        if self.fabric.world_size == 1:
            return flag
        return cast(Tensor, self.fabric.all_reduce(flag, reduce_op="sum")).clamp(max=1)


# ------------------------------------------------------------------------------------- non-finite losses
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
        self.step = 0  # iterations so far

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
        self.step = step + 1
        self.waiting.append(CheckedIteration(flag, arrived, step, lr, result, parts, files))

    def check(self, weights: nn.Module | None = None) -> None:
        """Raises :class:`NonFiniteLoss` for the first non-finite iteration that is known.

        With ``weights``, those that are to be used or saved: it reads all flags, and raises where they are not finite.
        """
        while self.waiting:
            oldest = self.waiting[0]
            if oldest.arrived is not None and not oldest.arrived.query():  # type: ignore[no-untyped-call]
                if weights is None and len(self.waiting) <= DEPTH:
                    return
                oldest.arrived.synchronize()
            self.waiting.popleft()
            if oldest.flag.item():
                raise self._error(oldest)
        if weights is not None and not is_finite(weights):
            raise ended(self.out, f"the weights are not finite after iteration {self.step}, and not saved")

    def _error(self, failed: CheckedIteration) -> NonFiniteLoss:
        losses = {name: float(value) for name, value in failed.result.losses.items()}
        folder = self.out / "nonfinite" / f"step-{failed.step}-rank-{self.rank}"
        save_batch(folder, failed, losses, self.classes)
        names = [name for name, value in losses.items() if not math.isfinite(value)]
        what = f"the loss is not finite ({', '.join(names)})" if names else "the gradients are not finite"
        parts = ", ".join(f"{name}={value:.4g}" for name, value in losses.items())
        return ended(
            self.out,
            f"{what} in iteration {failed.step}: {parts}; learning rate {failed.lr:.4g}; "
            f"images {', '.join(failed.files)}",
            f"Look at those images (the batch is in {folder}, the weights were not updated), or try",
        )


def is_finite(module: nn.Module) -> bool:
    """Whether all weights and statistics are finite, and their norms; it waits for the device."""
    values = [tensor for tensor in module.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack(list(torch._foreach_norm(values))).isfinite().all())


def ended(out: Path, message: str, look: str = "Try") -> NonFiniteLoss:
    """The error of a run that cannot go on; its advice is to begin another one with smaller steps."""
    fix = f"{look} a lower fit.lr, fit.clip=10, more fit.warmup_steps or --precision 32, in a new run"
    if steps(out / "checkpoints"):
        fix += f" with --weights {out}, the last weights that were saved"
    return NonFiniteLoss(message, path=out, fix=fix)


def save_batch(folder: Path, failed: CheckedIteration, losses: dict[str, float], classes: Sequence[str]) -> None:
    """``batch.safetensors`` (``I/pixels``, ``I/boxes``, ... for part I) and ``batch.json``, enough to run it again."""
    tensors: dict[str, Tensor] = {}
    for index, (images, targets) in enumerate(failed.parts):
        for name in ("pixels", "sizes", "frame", "original"):
            tensors[f"{index}/{name}"] = getattr(images, name).cpu().contiguous()
        for level, maps in enumerate(images.frozen_maps):
            tensors[f"{index}/frozen_maps.{level}"] = maps.cpu()
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


# --------------------------------------------------------------------------------------- moving average
class EMA(Generic[ModuleT]):
    """Exponential moving average of the weights, after every iteration: a <- d a + (1 - d) w.

    d = min(decay, (1 + n) / (1 / share + n)) with n iterations done: the average spans about ``share`` of them, however
    many they are, until ``decay`` limits it. So a short run forgets its random start. A share of 0.1 is the ramp of
    TensorFlow's ``ExponentialMovingAverage``; with 0.5 all iterations count alike. Buffers (running statistics) are
    copied.
    """

    def __init__(self, module: ModuleT, decay: float, share: float = 0.1) -> None:
        self.decay, self.share = decay, share
        self.module: ModuleT = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module, updates: int) -> None:
        """``updates``: the number of iterations before this one."""
        weight = 1 - min(self.decay, (1 + updates) / (1 / self.share + updates))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), weight)
        for averaged, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            averaged.copy_(buffer)


def to_device(images: Images, targets: Targets, device: torch.device, seen: int) -> tuple[Images, Targets]:
    """The batch on the device, its pixels channels-last; ``seen`` is the number of images trained on before it."""
    if images.frozen_maps:  # the pixels are one number in memory, and so they are there
        pixels = images.pixels[:1, :1, :1, :1].to(device).expand_as(images.pixels)
    else:
        pixels = images.pixels.contiguous(memory_format=torch.channels_last)
    return replace(images, pixels=pixels, seen=seen).to(device), targets.to(device)
