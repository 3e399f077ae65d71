"""The backbone of a detector that has none: R-CNN looks at the pixels of each box by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Pixels(nn.Module):
    """Pixels (B, 3, H, W) -> themselves, as the one map of stride 1, in the number format that layers would give."""

    channels: tuple[int, ...] = (3,)
    strides: tuple[int, ...] = (1,)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        device = pixels.device.type
        return [pixels.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else pixels]
