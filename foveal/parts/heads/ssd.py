"""SSD's head: separate layers for each level, as channels and numbers of priors differ between levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import UsageError, at_least
from ...types import Predictions
from ..layers.norms import NormKind, init_xavier, norm_conv
from ..layers.residual import Residual
from .dense import DenseHead, by_prior


@dataclass(frozen=True)
class PerLevel:
    """On each map one convolution for classes and one for boxes (SSD, section 2.1)."""

    kernels: tuple[int, ...] = (3,)  # of each level's convolutions; the last holds for all further levels
    light: bool = False  # a depthwise convolution with batch norm, then 1 x 1 (SSDLite)
    module: PredictionModule | None = None  # a block before them (DSSD)

    def __post_init__(self) -> None:
        if not self.kernels or any(k < 1 or k % 2 == 0 for k in self.kernels):
            raise UsageError(f"PerLevel: expected at least one kernel, all odd, got {self.kernels}")

    def build(self, channels: Sequence[int], per_location: Sequence[int], logits: int, bias: float | None) -> LevelHead:
        """For levels of these channels and priors of a location."""
        return LevelHead(self, channels, per_location, logits, bias)


class LevelHead(DenseHead):
    """Features [(B, c, h, w), ...] -> ``Predictions`` of logits (B, A, K) and deltas (B, A, 4)."""

    def __init__(
        self, spec: PerLevel, channels: Sequence[int], per_location: Sequence[int], logits: int, bias: float | None
    ) -> None:
        super().__init__()
        kernels = [*spec.kernels, *[spec.kernels[-1]] * len(channels)]
        self.before = nn.ModuleList(spec.module.build(c) for c in channels) if spec.module else None
        widths = channels if spec.module is None else [spec.module.channels] * len(channels)
        levels = list(zip(widths, per_location, kernels, strict=False))
        self.classification_head = nn.ModuleList(_last(spec, c, a * logits, k) for c, a, k in levels)
        self.regression_head = nn.ModuleList(_last(spec, c, a * 4, k) for c, a, k in levels)
        self.logits = logits
        if bias is not None:
            for branch in self.classification_head:
                last = branch[-1] if isinstance(branch, nn.Sequential) else branch
                nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> Predictions:
        if self.before is not None:
            features = [block(x) for block, x in zip(self.before, features, strict=True)]
        classes = zip(self.classification_head, features, strict=True)
        logits = [by_prior(branch(x), self.logits) for branch, x in classes]
        deltas = [by_prior(branch(x), 4) for branch, x in zip(self.regression_head, features, strict=True)]
        return Predictions(torch.cat(logits, 1), torch.cat(deltas, 1))


def _last(spec: PerLevel, inputs: int, outputs: int, kernel: int) -> nn.Module:
    if not spec.light:
        layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        init_xavier(layer)
        return layer
    depthwise = norm_conv(inputs, inputs, kernel, groups=inputs, norm="batch", eps=1e-3, act=nn.ReLU6)
    block = nn.Sequential(depthwise, nn.Conv2d(inputs, outputs, 1))
    for conv in block.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.normal_(conv.weight, std=0.03)  # MobileNetV3, as torchvision has it
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
    return block


@dataclass(frozen=True)
class PredictionModule:
    """DSSD's prediction module (figure 2c): a residual block of 1 x 1 convolutions before a level's last layers."""

    middle: int = 256
    channels: int = 1024
    norm: NormKind | None = "batch"
    eps: float | None = 1e-3  # of the norms

    def __post_init__(self) -> None:
        at_least(self, 1, "middle", "channels")

    def build(self, inputs: int) -> Residual:
        return Residual(inputs, (self.middle, self.middle, self.channels), (1, 1, 1), 1, 0, self.norm, self.eps)
