"""Exponential moving average of the weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


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
