"""The recipe a detector is trained by: solver, learning rate and the batch it was made for, schedule, stages.

Everything here is a frozen dataclass: it prints, compares and parses back. ``foveal/train`` executes it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from .errors import UsageError

Treatment = Literal["learn", "ignore", "drop"]
Precision = Literal["32", "bf16", "16"]


# ---------------------------------------------------------------------------------------------- solvers
@dataclass(frozen=True)
class Solver(ABC):
    """How gradients become updates."""

    @property
    @abstractmethod
    def decay(self) -> float:
        """The weight decay of ordinary weights."""

    @abstractmethod
    def build(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """A *fused* torch optimiser over parameter groups (each with its own ``lr`` and ``weight_decay``).

        Fused, because only that form can skip an update on the device (``found_inf``), without asking the host.
        """


@dataclass(frozen=True)
class SGD(Solver):
    """Stochastic gradient descent, torch's form: v = m v + g; w = w - lr v."""

    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False

    @property
    def decay(self) -> float:
        return self.weight_decay

    def build(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(groups), lr=0.0, momentum=self.momentum, nesterov=self.nesterov, fused=True)


@dataclass(frozen=True)
class AdamW(Solver):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    @property
    def decay(self) -> float:
        return self.weight_decay

    def build(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(list(groups), lr=0.0, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)


# -------------------------------------------------------------------------------------------- schedules
@dataclass(frozen=True)
class Schedule(ABC):
    """How the learning rate falls. Warm-up is not its business."""

    @abstractmethod
    def scale(self, step: int, steps: int, per_epoch: int) -> float:
        """What the learning rate is multiplied with in update ``step`` (from 0) of ``steps``."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate throughout."""

    def scale(self, step: int, steps: int, per_epoch: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Steps(Schedule):
    """Falls by ``factor`` at each of ``at``: below 1 a fraction of the training, from 1 on an epoch."""

    at: tuple[float, ...] = (0.66, 0.9)
    factor: float = 0.1

    def scale(self, step: int, steps: int, per_epoch: int) -> float:
        marks = [a * steps if a < 1 else a * per_epoch for a in self.at]
        # a mark that floating point puts a hair above its step (0.9 * 10 * ...) still counts as reached
        return float(self.factor ** sum(step + 1e-6 >= mark for mark in marks))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 to ``final`` (Loshchilov and Hutter, 2017, without restarts)."""

    final: float = 0.0

    def scale(self, step: int, steps: int, per_epoch: int) -> float:
        done = min(1.0, step / max(1, steps))
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * done))


# --------------------------------------------------------------------------------------------- the recipe
@dataclass(frozen=True)
class Stage:
    """One part of the fitting: which parameters learn, from what, how, and for how long.

    ``None`` takes the recipe's own value. Parameters that no prefix of ``trains`` names keep still.
    """

    trains: tuple[str, ...] = ("",)  # prefixes of parameter names; "" is every one
    inputs: Literal["images"] = "images"  # what it learns from
    solver: Solver | None = None
    lr: float | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        if not self.trains:
            raise UsageError('fit.stages: trains is empty, so nothing would learn; ("",) is everything')
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"fit.stages: epochs is {self.epochs}; it must be at least 1, or None")
        if self.lr is not None and not 0 <= self.lr < math.inf:
            raise UsageError(f"fit.stages: lr is {self.lr}; it must be 0 or more and finite, or None")


@dataclass(frozen=True)
class Fit:
    """How a detector is trained."""

    epochs: int = 12
    batch: int = 16  # images an update, over all processes; the batch ``lr`` was made for
    lr: float = 0.01  # scaled linearly where the run uses another batch
    solver: Solver = SGD()
    schedule: Schedule = Steps()
    warmup_steps: int = 500  # updates of warm-up, a fifth of the training at most
    warmup_factor: float = 0.001  # where the warm-up starts
    warmup_power: float = 1.0  # how the warm-up bends: 1 a straight line, 4 Darknet's burn-in
    clip: float | None = None  # largest norm of all gradients together
    accumulate: int = 1  # parts a batch is run in, one after the other, to save memory
    ema: float | None = None  # decay of the averaged weights; None: no average
    early_stop: int | None = None  # validations without a better AP before it ends; None: never
    val_every: int = 1  # epochs between validations (the last epoch always has one)
    augment: tuple[Any, ...] = ()  # transforms of ``foveal.data.transforms``, in order
    difficult: Treatment = "learn"  # objects marked difficult (VOC)
    crowd: Treatment = "ignore"  # regions marked crowd (COCO)
    precision: Precision | None = None  # None: bf16 where the processor is fast at it, else 32
    norm_decay: bool = True  # weight decay on the weights and biases of norm layers too
    bias_decay: bool = True  # and on other biases
    bias_lr: float = 1.0  # times the learning rate, for biases (Caffe's detectors use 2)
    backbone_lr: float = 1.0  # times the learning rate, for parameters under ``backbone`` (DETR uses 0.1)
    stages: tuple[Stage, ...] = (Stage(),)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulate", "val_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"fit.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("lr", "warmup_steps", "warmup_factor", "warmup_power", "bias_lr", "backbone_lr"):
            if not 0 <= getattr(self, name) < math.inf:  # so written, it refuses nan too
                raise UsageError(f"fit.{name} is {getattr(self, name)}; it must be 0 or more and finite")
        if self.early_stop is not None and self.early_stop < 1:
            raise UsageError(f"fit.early_stop is {self.early_stop}; it must be at least 1, or None")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise UsageError(f"fit.ema is {self.ema}; it must lie in [0, 1), or be None")
        if self.clip is not None and not self.clip > 0:
            raise UsageError(f"fit.clip is {self.clip}; it must be positive, or None")
        if not self.stages:
            raise UsageError("fit.stages is empty; a recipe has at least one stage")

    def scaled_lr(self, batch: int, stage: Stage | None = None) -> float:
        """The learning rate for ``batch`` images an update: linear in the batch (Goyal et al., 2017)."""
        base = self.lr if stage is None or stage.lr is None else stage.lr
        return base * batch / self.batch

    def scale(self, step: int, steps: int, per_epoch: int) -> float:
        """Warm-up times schedule, for update ``step`` (from 0) of ``steps``."""
        warmup = min(self.warmup_steps, steps // 5)
        rise = 1.0
        if step < warmup:
            done = (step / warmup) ** self.warmup_power
            rise = self.warmup_factor * (1 - done) + done
        return rise * self.schedule.scale(step, steps, per_epoch)
