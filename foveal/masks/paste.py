"""Pastes the small masks of boxes into the image, on the CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .rle import Masks

FARTHEST = 1 << 30  # pixels from the image, for 32-bit numbers that cannot overflow
LARGE = 4  # sides of the image; of a larger box only the part inside is computed


def paste(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float) -> Masks:
    """``probabilities`` (N, S, S) inside ``boxes`` (N, 4) of an image of ``size`` = height, width -> N masks.

    Each mask gets a border of one zero, its box grows by as much and is cut to whole pixels, and the mask is resized to
    it, bilinearly (torchvision's ``paste_masks_in_image``). Only the pixels of the boxes are computed.
    """
    side = probabilities.shape[-1]
    padded = F.pad(probabilities.float(), (1, 1, 1, 1))
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    half = (boxes[:, 2:] - boxes[:, :2]) * (0.5 * (side + 2) / side)
    center = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    corners = torch.cat([center - half, center + half], 1).clamp(-FARTHEST, FARTHEST).to(torch.int64).tolist()
    height, width = size
    masks = []
    for mask, (x1, y1, x2, y2) in zip(padded, corners, strict=True):
        shape = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        if shape[0] > LARGE * height or shape[1] > LARGE * width:
            bits = _seen(mask, (y1, x1), shape, size) > threshold
            masks.append(Masks.of_dense(bits[None].numpy()))
            continue
        resized = F.interpolate(mask[None, None], size=shape, mode="bilinear", align_corners=False)[0, 0]
        left, top = max(x1, 0), max(y1, 0)
        inside = resized[top - y1 : height - y1, left - x1 : width - x1] > threshold
        masks.append(Masks.of_dense(inside[None].numpy()).window(-top, -left, height, width))
    return Masks.join(masks, size)


def _seen(mask: Tensor, corner: tuple[int, int], shape: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """``mask`` (S, S) resized to ``shape`` and placed at ``corner`` = top, left: the part on a canvas of ``size``."""
    for axis in (0, 1):
        pixel = torch.arange(size[axis], dtype=torch.float64) - corner[axis]
        at = ((pixel + 0.5) * (len(mask) / shape[axis]) - 0.5).clamp(0, len(mask) - 1)
        low = at.floor().long()
        high = (low + 1).clamp(max=len(mask) - 1)
        part, inside = (at - low).float()[:, None], (pixel >= 0) & (pixel < shape[axis])
        mask = (torch.lerp(mask[low], mask[high], part) * inside[:, None]).transpose(0, 1)
    return mask
