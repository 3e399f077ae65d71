"""The five scales of SPP-Net and Fast R-CNN: one backbone, run on the picture in several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError
from .base import BackboneSpec


@dataclass(frozen=True)
class ImagePyramid(BackboneSpec):
    """The last map of ``backbone`` for the picture at each of ``scales``, the largest first (SPP-Net, section 4.1).

    ``scales`` are short sides; the largest must be that of the resize rule (``input.short``), and the smaller pictures
    are made from that one, bilinear without antialias, where the paper resizes the file for each. A map's stride is
    counted in pixels of the picture as given: 16 at the largest scale, 16 * 1200 / 480 = 40 at 480.
    """

    backbone: BackboneSpec
    scales: tuple[int, ...] = (1200, 864, 688, 576, 480)  # short sides, pixels
    in_training: bool = True  # False: training sees the picture as it comes, in a size that is drawn (Fast R-CNN)

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 1 or list(self.scales) != sorted(set(self.scales), reverse=True):
            raise UsageError(f"ImagePyramid: scales are {self.scales}; give short sides, the largest first")

    @property
    def weights(self) -> str | None:  # type: ignore[override]  # a field elsewhere, here the inner one's
        return self.backbone.weights

    @property
    def weights_file(self) -> str | None:
        return self.backbone.weights_file

    def build(self, levels: Sequence[int] = (4,)) -> PyramidScales:
        return PyramidScales(self.backbone.build(levels), [s / self.scales[0] for s in self.scales], self.in_training)

    def load_pretrained(self, backbone: nn.Module, path: str | Path | None = None) -> None:
        self.backbone.load_pretrained(backbone.get_submodule("body"), path)


class PyramidScales(nn.Module):
    """Pixels (B, 3, H, W) -> a map (B, c, h, w) for each size; in training the first alone, unless asked for all."""

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
