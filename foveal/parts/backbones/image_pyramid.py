"""The image pyramid of SPP-Net and Fast R-CNN: one backbone on the image at several scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError
from ..resizing import PixelStatistics
from .base import BackboneSpec


@dataclass(frozen=True)
class ImagePyramid(BackboneSpec):
    """The last map of ``backbone`` for the image at each of ``scales``, the largest first (SPP-Net, section 4.1).

    ``scales`` are short sides; the largest must be that of the resize rule (``input.short``), and the smaller images
    are resized from that one, bilinear without antialias, where the paper resizes the file for each. A map's stride is
    measured in pixels of the given image: 16 at the largest scale, 16 * 1200 / 480 = 40 at 480.
    """

    backbone: BackboneSpec
    scales: tuple[int, ...] = (1200, 864, 688, 576, 480)  # short sides, pixels
    in_training: bool = True  # False: training uses the given image alone, at a random scale (Fast R-CNN)

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 1 or list(self.scales) != sorted(set(self.scales), reverse=True):
            raise UsageError(f"ImagePyramid: scales are {self.scales}, expected short sides, the largest first")

    @property
    def weights(self) -> str | None:  # type: ignore[override]  # a field elsewhere, here the inner one's
        return self.backbone.weights

    @property
    def weights_file(self) -> str | None:
        return self.backbone.weights_file

    def with_weights(self, weights: str) -> Self:
        return replace(self, backbone=self.backbone.with_weights(weights))

    @property
    def pixels(self) -> PixelStatistics:
        return self.backbone.pixels

    @property
    def is_vgg(self) -> bool:
        return self.backbone.is_vgg

    def package_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.backbone.package_state({key.removeprefix("body."): value for key, value in state.items()})

    def build(self, levels: Sequence[int] = (4,)) -> PyramidScales:
        return PyramidScales(self.backbone.build(levels), [s / self.scales[0] for s in self.scales], self.in_training)

    def load_pretrained(self, backbone: nn.Module, path: str | Path | None = None) -> None:
        self.backbone.load_pretrained(backbone.get_submodule("body"), path)


class PyramidScales(nn.Module):
    """Pixels (B, 3, H, W) -> a map (B, c, h, w) for each scale; in training the first alone, unless ``in_training``."""

    def __init__(self, body: Any, ratios: Sequence[float], in_training: bool = True) -> None:
        super().__init__()
        self.body, self.ratios, self.in_training = body, tuple(ratios), in_training
        self.channels: tuple[int, ...] = (body.channels[-1],) * len(self.ratios)
        self.strides: tuple[float, ...] = tuple(body.strides[-1] / ratio for ratio in self.ratios)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        ratios = self.ratios if self.in_training or not self.training else self.ratios[:1]
        return [self.body(self._resized(pixels, ratio))[-1] for ratio in ratios]

    @staticmethod
    def _resized(pixels: Tensor, ratio: float) -> Tensor:
        if ratio == 1:
            return pixels
        size = [max(1, round(n * ratio)) for n in pixels.shape[-2:]]
        return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
