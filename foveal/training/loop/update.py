"""One update: forward, backward, guard, clip, solver. Nothing here waits for the device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from torch import Tensor

from ...types import Images, Targets
from .log import Clock

STEP, VALIDATION, START = 1, 2, 3  # kinds of noise, so that no two share a stream


def derive_seed(kind: int, seed: int, *place: int) -> int:
    """A 64-bit seed from the run's seed and a place in it (step, rank, part). Nobody has generator state to save."""
    return int(np.random.SeedSequence([kind, seed, *place]).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class Result:
    """What an update leaves behind, all on the device."""

    losses: dict[str, Tensor]  # scalars, this process' mean over the parts of the batch
    bad: Tensor  # () float32: 1 where the update was skipped because something was not finite


class Updater:
    """Updates one model with one solver."""

    def __init__(
        self,
        fabric: Fabric,
        model: Any,
        solver: torch.optim.Optimizer,
        *,
        seed: int,
        clip: float | None,
        clock: Clock,
        learning: str | None = None,
    ) -> None:
        """``learning``: the task whose losses alone count, of a two-stage detector; None: all."""
        self.fabric, self.model, self.solver = fabric, model, solver
        self.seed, self.clip, self.clock = seed, clip, clock
        self.rng = torch.Generator(fabric.device)
        self.learning = learning
        self.options = {} if learning is None else {"learning": learning}
        precision = fabric.strategy.precision
        self.scaler = precision.scaler if isinstance(precision, MixedPrecision) else None

    def __call__(self, parts: Sequence[tuple[Images, Targets]], step: int) -> Result:
        """``parts`` are run one after the other and their gradients averaged. Raises nothing on a bad loss."""
        losses: dict[str, Tensor] = {}
        self.solver.zero_grad(set_to_none=True)
        for index, (images, targets) in enumerate(parts):
            place = derive_seed(STEP, self.seed, step, self.fabric.global_rank, index)
            torch.manual_seed(place)  # dropout
            self.rng.manual_seed(place)  # sampling
            last = index == len(parts) - 1
            with nullcontext() if last else self.fabric.no_backward_sync(self.model):
                with self.clock.measure("forward"):
                    found = self.model(images, targets, rng=self.rng, **self.options)
                    loss = torch.stack(list(found.values())).sum() / len(parts)
                with self.clock.measure("backward"):
                    self.fabric.backward(loss)
            for name, value in found.items():
                part = value.detach().float() / len(parts)
                losses[name] = losses[name] + part if name in losses else part
        with self.clock.measure("backward"):
            bad = self._update(torch.stack(list(losses.values())).sum())
        return Result(losses, bad)

    def _update(self, loss: Tensor) -> Tensor:
        """Applies the gradients, unless loss or gradients are not finite: then weights and solver stay as they are."""
        gradients = [p.grad for group in self.solver.param_groups for p in group["params"] if p.grad is not None]
        if self.scaler is not None:
            return self._update_scaled(loss, gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        bad = (~torch.isfinite(norm + loss)).float()
        if self.fabric.world_size > 1:
            # gradients agree on all ranks, the loss is each rank's own
            bad = cast(Tensor, self.fabric.all_reduce(bad, reduce_op="sum")).clamp(max=1)
        fused = cast(Any, self.solver)
        fused.found_inf = bad  # the fused kernels look at it on the device
        if self.clip is not None:
            fused.grad_scale = (norm / self.clip).clamp(min=1).float()
        self.solver.step()
        return bad

    def _update_scaled(self, loss: Tensor, gradients: list[Tensor]) -> Tensor:
        """fp16: an overflow of the scaled gradients is ordinary (the scaler skips and halves); a bad loss is not."""
        assert self.scaler is not None
        self.scaler.unscale_(self.solver)
        if self.clip is not None:
            norm = torch.nn.utils.get_total_norm(gradients)
            torch._foreach_mul_(gradients, (self.clip / (norm + 1e-6)).clamp(max=1))
        self.scaler.step(self.solver)
        self.scaler.update()
        bad = (~torch.isfinite(loss)).float()
        if self.fabric.world_size > 1:
            bad = cast(Tensor, self.fabric.all_reduce(bad, reduce_op="sum")).clamp(max=1)
        return bad


def to_device(images: Images, targets: Targets, device: torch.device, seen: int) -> tuple[Images, Targets]:
    """Channels-last pixels on the device; ``seen`` images were trained on before this batch."""
    pixels = images.pixels.contiguous(memory_format=torch.channels_last)
    return replace(images, pixels=pixels, seen=seen).to(device), targets.to(device)
