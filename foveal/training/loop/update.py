"""One iteration: forward, backward, non-finite check, clipping, optimizer, moving average.

Nothing here waits for the device.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn

from ...types import Images, Targets
from .log import Clock

ModuleT = TypeVar("ModuleT", bound=nn.Module)

STEP, VALIDATION, START = 1, 2, 3  # purposes of random numbers, so that no two share a stream


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


class EMA(Generic[ModuleT]):
    """Exponential moving average of the weights, after every iteration: a <- d a + (1 - d) w.

    d = min(decay, (1 + n) / (10 + n)) with n iterations done, so that a short run forgets its random start (the ramp
    of TensorFlow's ``ExponentialMovingAverage``). Buffers (running statistics) are copied.
    """

    def __init__(self, module: ModuleT, decay: float) -> None:
        self.decay = decay
        self.module: ModuleT = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module, updates: int) -> None:
        """``updates``: the number of iterations before this one."""
        weight = 1 - min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), weight)
        for averaged, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            averaged.copy_(buffer)


def to_device(images: Images, targets: Targets, device: torch.device, seen: int) -> tuple[Images, Targets]:
    """The batch on the device, its pixels channels-last; ``seen`` is the number of images trained on before it."""
    pixels = images.pixels.contiguous(memory_format=torch.channels_last)
    return replace(images, pixels=pixels, seen=seen).to(device), targets.to(device)
