"""Cutouts of images for pages: a box with its surroundings, drawn so that it is seen on any photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SIDE = 320  # pixels of the longer side of a cutout
MARGIN = 24.0  # pixels around a box at least
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Cutout:
    """A part of an image at another scale: ``x``, ``y`` are its corner in pixels of the image."""

    image: Image.Image
    x: int
    y: int
    scale: float

    def box(self, box: Sequence[float]) -> list[float]:
        """A box of the image, xyxy pixels, in pixels of the cutout."""
        return [(v - (self.y if k % 2 else self.x)) * self.scale for k, v in enumerate(box)]

    def solid(self, box: Sequence[float], color: RGB, width: int = 2) -> None:
        """Draws a box of the image."""
        x1, y1, x2, y2 = self.box(box)
        if x2 > x1 and y2 > y1:
            ImageDraw.Draw(self.image).rectangle([x1, y1, x2, y2], outline=color, width=width)

    def ringed(self, box: Sequence[float], color: RGB) -> None:
        """A ring around a box of the image that is too small to be seen."""
        x1, y1, x2, y2 = self.box(box)
        x, y, radius = (x1 + x2) / 2, (y1 + y2) / 2, 14
        for extra, ink, width in ((1, (0, 0, 0), 5), (0, color, 3)):
            r = radius + extra
            ImageDraw.Draw(self.image).ellipse([x - r, y - r, x + r, y + r], outline=ink, width=width)

    def dashed(self, box: Sequence[float], color: RGB = (255, 255, 255)) -> None:
        """Draws a box of the image: a dashed rectangle on a black one. Corners in the wrong order are drawn too."""
        pen, (x1, y1, x2, y2) = ImageDraw.Draw(self.image), self.box(box)
        pen.rectangle([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)], outline=(0, 0, 0), width=3)
        for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
            (ax, ay), (bx, by) = start, end
            length = max(abs(bx - ax), abs(by - ay), 1.0)
            for at in np.arange(0, length, 10):
                to = min(at + 6, length)
                ends = [ax + (bx - ax) * at / length, ay + (by - ay) * at / length]
                ends += [ax + (bx - ax) * to / length, ay + (by - ay) * to / length]
                pen.line(ends, fill=color, width=2)


def cutout(pixels: np.ndarray[Any, Any], box: Sequence[float], side: int = SIDE) -> Cutout:
    """The part of an image (H, W, 3) uint8 around a box, xyxy pixels, with ``side`` pixels on its longer side.

    A box beyond the edge gets the part of the image that is nearest to it.
    """
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in box)
    x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
    margin = max(0.75 * max(x2 - x1, y2 - y1), MARGIN)
    left, right = _span(x1 - margin, x2 + margin, width)
    top, bottom = _span(y1 - margin, y2 + margin, height)
    return _scaled(Image.fromarray(pixels[top:bottom, left:right]), left, top, side)


def whole(pixels: np.ndarray[Any, Any], side: int = SIDE) -> Cutout:
    """The whole image (H, W, 3) uint8, with ``side`` pixels on its longer side."""
    return _scaled(Image.fromarray(pixels), 0, 0, side)


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """A range of at least a pixel inside 0..size."""
    first = min(max(0, int(low)), size - 1)
    return first, max(first + 1, min(size, int(high) + 1))


def _scaled(image: Image.Image, x: int, y: int, side: int) -> Cutout:
    scale = side / max(*image.size, 1)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return Cutout(image.resize(size, reducing_gap=2.0), x, y, scale)
