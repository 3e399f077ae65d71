"""Pastes the small masks of boxes into the image, on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .rle import Masks


def paste(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Masks:
    """``probabilities`` (N, S, S) inside ``boxes`` (N, 4) of an image of ``size`` = height, width -> N masks.

    Each mask gets a border of one zero, its box grows by as much and is cut to whole pixels, and the mask is resized to
    it, bilinearly (torchvision's ``paste_masks_in_image``). Only the pixels of the boxes are computed.
    """
    side = probabilities.shape[-1]
    padded = F.pad(probabilities.float(), (1, 1, 1, 1))
    half = (boxes[:, 2:] - boxes[:, :2]) * (0.5 * (side + 2) / side)
    center = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    corners = torch.cat([center - half, center + half], 1).to(torch.int64).tolist()
    height, width = size
    masks = []
    for mask, (x1, y1, x2, y2) in zip(padded, corners, strict=True):
        shape = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        resized = F.interpolate(mask[None, None], size=shape, mode="bilinear", align_corners=False)[0, 0]
        left, top = max(x1, 0), max(y1, 0)
        inside = resized[top - y1 : height - y1, left - x1 : width - x1] > threshold
        masks.append(Masks.of_dense(inside[None].numpy()).window(-top, -left, height, width))
    return Masks.join(masks, size)
