"""A training sample (an image with its objects on a canvas), its geometric operations, and the resampling.

The operations copy no pixels: cropping slices the image, expanding moves the edges of the canvas, and nothing is filled
before :func:`resample` writes the result, once, into its slot of the batch. Pixels are ``uint8`` throughout.

Letters: G objects, H x W the image. Boxes are ``xyxy`` float pixels of the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...files.aliases import Floats, ImageArray
from ...masks.rle import Masks

MEAN = (124, 116, 104)  # ImageNet's mean color, RGB: zero after normalization


@dataclass(frozen=True)
class Sample:
    """One image with its objects; ``boxes``, ``labels``, ``ignore`` and ``masks`` have the same order."""

    image: ImageArray  # (H, W, 3) RGB, never written to
    boxes: Floats  # (G, 4) canvas pixels
    labels: NDArray[np.int64]  # (G,)
    ignore: NDArray[np.bool_]  # (G,) ignored region, excluded from the loss
    masks: Masks | None = None  # G masks, in image coordinates
    canvas: tuple[int, int] = (0, 0)  # height, width; (0, 0): those of the image
    offset: tuple[int, int] = (0, 0)  # y, x of the image on the canvas
    fill: tuple[int, int, int] = MEAN  # the canvas's color
    proposals: Floats | None = None  # (P, 4) canvas pixels
    short: int | None = None  # short side for ``Resize``; None: that of the rule
    mirrored: bool = False  # whether it was flipped an odd number of times

    def __post_init__(self) -> None:
        if self.canvas == (0, 0):
            object.__setattr__(self, "canvas", self.image.shape[:2])

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def is_blank(self) -> bool:
        """Whether its image is a :func:`blank_image`."""
        return self.image.strides[2] == 0

    def select(self, index: NDArray[Any]) -> Sample:
        """The sample with some of its objects, given by a mask (G,) or by indices."""
        masks = None if self.masks is None else self.masks[index]
        return replace(self, boxes=self.boxes[index], labels=self.labels[index], ignore=self.ignore[index], masks=masks)

    def window(self, top: int, left: int, height: int, width: int) -> Sample:
        """The part of the canvas inside a window, which may extend beyond it. Boxes are shifted and not clipped."""
        y, x = self.offset[0] - top, self.offset[1] - left
        h, w = self.image.shape[:2]
        y1, x1, y2, x2 = max(0, -y), max(0, -x), min(h, height - y), min(w, width - x)
        y2, x2 = max(y1, y2), max(x1, x2)
        shift = np.array([left, top, left, top], dtype=np.float64)
        return replace(
            self,
            image=self.image[y1:y2, x1:x2],
            masks=None if self.masks is None else self.masks.window(y1, x1, y2 - y1, x2 - x1),
            boxes=self.boxes - shift,
            proposals=None if self.proposals is None else self.proposals - shift,
            canvas=(height, width),
            offset=(max(0, y), max(0, x)),
        )

    def clipped(self) -> Sample:
        """Boxes clipped to the canvas, without objects and proposals outside it."""
        boxes, visible = _on_canvas(self.boxes, self.canvas)
        proposals = self.proposals
        if proposals is not None:
            inside, nonempty = _on_canvas(proposals, self.canvas)
            proposals = inside[nonempty]
        return replace(self, boxes=boxes, proposals=proposals).select(visible)

    def render(self) -> ImageArray:
        """The canvas as an array (H, W, 3)."""
        out = torch.empty((*self.canvas, 3), dtype=torch.uint8)
        resample(self, out, (*self.canvas, 0, 0))
        return np.asarray(out.numpy())


def blank_image(height: int, width: int) -> ImageArray:
    """(height, width, 3) zeros, one number in memory: for a sample whose objects alone are needed."""
    return np.broadcast_to(np.zeros(1, np.uint8), (height, width, 3))


def flip(sample: Sample) -> Sample:
    """The mirror image."""
    image, width = sample.image, sample.canvas[1]
    return replace(
        sample,
        # 30 times faster than NumPy's copy of [:, ::-1]
        image=image if sample.is_blank else np.asarray(_tensor(image).flip(1).numpy()),
        mirrored=not sample.mirrored,
        masks=None if sample.masks is None else sample.masks.flipped(),
        boxes=_mirrored(sample.boxes, width),
        proposals=None if sample.proposals is None else _mirrored(sample.proposals, width),
        offset=(sample.offset[0], width - sample.offset[1] - sample.image.shape[1]),
    )


def _mirrored(boxes: Floats, width: int) -> Floats:
    out = boxes.copy()
    out[:, [0, 2]] = width - boxes[:, [2, 0]]
    return out


def _on_canvas(boxes: Floats, canvas: tuple[int, int]) -> tuple[Floats, NDArray[np.bool_]]:
    """Boxes (N, 4) clipped to height, width, and which of them (N,) have an area then."""
    height, width = canvas
    inside = boxes.clip(0, np.array([width, height, width, height], dtype=np.float64))
    return inside, np.asarray((inside[:, 2:] > inside[:, :2]).all(1))


def crop_to_centers(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """The window with the objects whose center is inside, and with all ignored regions that overlap it."""
    window = np.array([left, top, left + width, top + height], dtype=np.float64)
    keep = centers_inside(sample.boxes, window) | sample.ignore
    return sample.select(keep).window(top, left, height, width).clipped()


def crop_to_visible(sample: Sample, top: int, left: int, height: int, width: int, visible: float) -> Sample:
    """The window with all objects that overlap it; those with less than ``visible`` of their area become ignored."""
    before = sample.boxes
    moved = sample.window(top, left, height, width)
    limit = np.array([width, height, width, height], dtype=np.float64)
    inside = moved.boxes.clip(0, limit)
    area = (before[:, 2:] - before[:, :2]).prod(1)
    remaining = (inside[:, 2:] - inside[:, :2]).prod(1)
    return replace(moved, ignore=moved.ignore | (remaining < visible * area)).clipped()


def centers_inside(boxes: Floats, windows: Floats) -> NDArray[np.bool_]:
    """Whether the centers of boxes (G, 4) are strictly inside windows, which broadcast with them."""
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    inside: NDArray[np.bool_] = np.asarray(((centers > windows[..., :2]) & (centers < windows[..., 2:])).all(-1))
    return inside


# ------------------------------------------------------------------------------------------------- resizing
def resize(image: ImageArray, height: int, width: int) -> Tensor:
    """(H, W, 3) uint8 -> (height, width, 3) uint8, bilinear without antialias, as prediction resizes in float.

    Within one level of the rounded float result (torch's fixed-point kernel, 20 times faster than the float one).
    """
    pixels = _tensor(image)
    if image.shape[:2] == (height, width):
        return pixels
    # with a leading axis before the permutation the tensor is channels-last, which the fast kernel requires
    planes = pixels[None].permute(0, 3, 1, 2)
    out = torch.nn.functional.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False)
    return out[0].permute(1, 2, 0)


def resample(
    sample: Sample,
    out: Tensor,
    placement: tuple[int, int, int, int],
    finish: Callable[[ImageArray], ImageArray] | None = None,
) -> Sample:
    """:func:`draw_pixels`, and :func:`resampled_objects`."""
    draw_pixels(sample, out, placement, finish)
    return resampled_objects(sample, (int(out.shape[0]), int(out.shape[1])), placement)


def draw_pixels(
    sample: Sample,
    out: Tensor,
    placement: tuple[int, int, int, int],
    finish: Callable[[ImageArray], ImageArray] | None = None,
) -> None:
    """Resamples the canvas into ``out`` (H, W, 3) at ``placement`` = height, width, top, left; the rest is filled.

    ``finish`` is applied to the resampled image without the fill.
    """
    _, _, top, left = placement
    y1, x1, y2, x2 = _inner(sample, placement)
    if y2 > y1 and x2 > x1:
        pixels = resize(sample.image, y2 - y1, x2 - x1)
        if finish is not None:
            pixels = _tensor(finish(pixels.numpy()))
        out[top + y1 : top + y2, left + x1 : left + x2] = pixels
    _fill_around(out, (top + y1, left + x1, top + y2, left + x2), sample.fill)


def resampled_objects(sample: Sample, shape: tuple[int, int], placement: tuple[int, int, int, int]) -> Sample:
    """The sample with boxes (and masks) in the pixels of the output of :func:`resample`, clipped to the placement.

    ``shape`` is the output's (H, W). The edges of the image are rounded to whole pixels and the boxes are scaled by the
    same rounded sizes, so that they stay aligned.
    """
    height, width, top, left = placement
    h, w = sample.image.shape[:2]
    y, x = sample.offset
    y1, x1, y2, x2 = _inner(sample, placement)
    scale = np.array([(x2 - x1) / w if w else 1.0, (y2 - y1) / h if h else 1.0] * 2)

    def rescale(boxes: Floats) -> Floats:
        rescaled: Floats = (boxes - np.array([x, y, x, y])) * scale + np.array([x1, y1, x1, y1], dtype=np.float64)
        return rescaled

    proposals = None if sample.proposals is None else rescale(sample.proposals)
    masks = None
    if sample.masks is not None:
        masks = sample.masks.resized(y2 - y1, x2 - x1).window(-top - y1, -left - x1, *shape)
    moved = replace(
        sample, boxes=rescale(sample.boxes), proposals=proposals, masks=masks, canvas=(height, width), offset=(0, 0)
    ).clipped()
    shift = np.array([left, top, left, top], dtype=np.float64)
    proposals = None if moved.proposals is None else moved.proposals + shift
    return replace(moved, boxes=moved.boxes + shift, proposals=proposals)


def _inner(sample: Sample, placement: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Where the image of a sample lies within its placement: top, left, bottom, right; empty where it is empty."""
    height, width, _, _ = placement
    h, w = sample.image.shape[:2]
    (canvas_h, canvas_w), (y, x) = sample.canvas, sample.offset
    y1, y2 = _edges(y, h, height / canvas_h, height)
    x1, x2 = _edges(x, w, width / canvas_w, width)
    return (y1, x1, y2, x2) if h and w else (y1, x1, y1, x1)


def _edges(start: int, length: int, scale: float, limit: int) -> tuple[int, int]:
    """Start and end of an interval of the canvas after resizing: whole pixels, at least one."""
    first = min(math.floor(start * scale + 0.5), limit - 1)
    return first, min(limit, max(first + 1, math.floor((start + length) * scale + 0.5)))


def _fill_around(out: Tensor, inner: tuple[int, int, int, int], fill: tuple[int, int, int]) -> None:
    """Fills ``out`` outside the rectangle top, left, bottom, right."""
    y1, x1, y2, x2 = inner
    for part in (out[:y1], out[y2:], out[y1:y2, :x1], out[y1:y2, x2:]):
        if part.numel():
            for channel, value in enumerate(fill):
                part[..., channel] = value


def _tensor(image: ImageArray) -> Tensor:
    """The array as a tensor without a copy; read-only arrays are copied, because torch cannot hold them."""
    return torch.from_numpy(image if image.flags.writeable else image.copy())
