"""The identity backbone: R-CNN, which crops boxes from the image, pools from the pixels themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IdentityBackbone(nn.Module):
    """Pixels (B, 3, H, W) -> the same pixels, as one map of stride 1, in the dtype of autocast where it is enabled."""

    channels: tuple[int, ...] = (3,)
    strides: tuple[int, ...] = (1,)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        device = pixels.device.type
        return [pixels.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else pixels]
