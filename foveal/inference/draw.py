"""Drawings that can be read on any photo: haloed boxes, label chips with scores, translucent masks. Pillow only."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..files.text import one_line

if TYPE_CHECKING:
    from ..runner.onnx_detector import FoundBoxes
    from ..types import Detections

RGB = tuple[int, int, int]
Rect = tuple[float, float, float, float]
MARK = b"drawn by foveal predict"  # a comment in every drawing: only these are replaced
HALO = (0, 0, 0, 150)  # under every line: a bright color on snow and a dark one at night stay visible
GOLDEN = 137.508  # degrees: successive hues never crowd, however many classes there are


# --------------------------------------------------------------------------------------------- colors
@functools.cache
def color(index: int) -> RGB:
    """The sRGB color of a class: always the same for an index, equally light to the eye, hue by the golden angle.

    OKLCH with lightness cycling over three steps (Ottosson 2020, https://bottosson.github.io/posts/oklab).
    """
    lightness = (0.74, 0.79, 0.66)[index % 3]
    hue = math.radians((145 + GOLDEN * index) % 360)
    chroma = 0.2
    while True:  # less colorful until sRGB can show it; gray always can
        linear = _oklab_to_linear(lightness, chroma * math.cos(hue), chroma * math.sin(hue))
        if chroma <= 0 or all(0 <= c <= 1 for c in linear):
            break
        chroma -= 0.005
    r, g, b = (round(255 * _gamma(min(max(c, 0.0), 1.0))) for c in linear)
    return r, g, b


def _oklab_to_linear(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _gamma(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055


def ink(background: RGB) -> RGB:
    """Black or near-white, whichever contrasts more with the background (WCAG relative luminance)."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (12, 12, 12) if (luminance + 0.05) ** 2 > 0.05 * 1.05 else (250, 250, 250)


# --------------------------------------------------------------------------------------------- drawing
@dataclass(frozen=True)
class _Scale:
    """Sizes in pixels, proportional to the size of the image."""

    line: int
    font: int
    pad: int

    @classmethod
    def of(cls, width: int, height: int) -> _Scale:
        side = math.sqrt(width * height)
        font = max(10, round(side / 42))
        return cls(line=max(1 if side < 120 else 2, round(side / 240)), font=font, pad=max(1, round(font / 4)))


def draw(image: NDArray[np.uint8], detections: Detections | FoundBoxes, *, line: int | None = None) -> Image.Image:
    """A new RGB image of ``image`` (H, W, 3) uint8 with the detections (original pixels) drawn in.

    Whatever is there is drawn: choose with ``detections.above(score)`` first. ``line`` sets the line width in pixels.
    """
    masks = None if detections.masks is None else (detections.masks[i].dense()[0] for i in range(len(detections)))
    return draw_boxes(
        image,
        detections.boxes.tolist(),
        detections.labels.tolist(),
        detections.names,
        scores=detections.scores.tolist(),
        masks=masks,
        line=line,
    )


def draw_boxes(
    image: NDArray[np.uint8],
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    names: Sequence[str] = (),
    *,
    scores: Sequence[float] | None = None,
    masks: Iterable[NDArray[np.bool_]] | None = None,
    line: int | None = None,
) -> Image.Image:
    """As :func:`draw`, from plain values: boxes xyxy, N masks (H, W). Without scores chips hold the name alone."""
    height, width = image.shape[:2]
    canvas = Image.fromarray(np.ascontiguousarray(_with_masks(image, labels, masks)))
    scale = _Scale.of(width, height)
    stroke = line or scale.line
    order = sorted(range(len(boxes)), key=lambda i: scores[i] if scores else -i)  # the surest is drawn last, on top
    layer = ImageDraw.Draw(canvas, "RGBA")
    rects = {i: _inside(boxes[i], width, height) for i in order}
    for i in order:
        _outline(layer, rects[i], color(labels[i]), stroke)
    chips: list[Rect] = []
    placed = []
    for i in reversed(order):  # the best score chooses its location first
        name = names[labels[i]] if names else str(labels[i])
        name = name if name.isprintable() else one_line(name)
        text, size = _text(name, None if scores is None else scores[i], scale, width)
        if text and size[1] <= height:
            chip = _place(rects[i], size, stroke, width, height, chips)
            chips.append(chip)
            placed.append((chip, text, color(labels[i])))
    for chip, text, paint in reversed(placed):
        _chip(layer, chip, text, paint, scale)
    return canvas


def _with_masks(
    image: NDArray[np.uint8], labels: Sequence[int], masks: Iterable[NDArray[np.bool_]] | None
) -> NDArray[np.uint8]:
    """A copy with the masks blended in, each with a fine brighter rim."""
    out = image.copy()
    for label, mask in zip(labels, () if masks is None else masks, strict=False):
        paint = np.array(color(label), np.float32)
        out[mask] = (0.55 * out[mask] + 0.45 * paint).astype(np.uint8)
        inner = mask.copy()
        inner[1:] &= mask[:-1]
        inner[:-1] &= mask[1:]
        inner[:, 1:] &= mask[:, :-1]
        inner[:, :-1] &= mask[:, 1:]
        out[mask & ~inner] = paint.astype(np.uint8)
    return out


def _inside(box: Sequence[float], width: int, height: int) -> Rect:
    """Pixel columns and rows of the outline: half-open continuous edges -> the pixels they cover, inside the image."""
    x1, y1, x2, y2 = (v if math.isfinite(v) else 0.0 for v in box)
    left, top = min(max(round(x1), 0), width - 1), min(max(round(y1), 0), height - 1)
    right, bottom = min(max(round(x2) - 1, left), width - 1), min(max(round(y2) - 1, top), height - 1)
    return left, top, right, bottom


def _outline(layer: ImageDraw.ImageDraw, rect: Rect, paint: RGB, stroke: int) -> None:
    left, top, right, bottom = rect
    halo = max(1, stroke // 2)
    layer.rectangle((left - halo, top - halo, right + halo, bottom + halo), outline=HALO, width=stroke + 2 * halo)
    layer.rectangle(rect, outline=(*paint, 255), width=stroke)


# ----------------------------------------------------------------------------------------------- chips
@functools.cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _text(name: str, score: float | None, scale: _Scale, width: int) -> tuple[str, tuple[float, float]]:
    """The longest form of the label that the image is wide enough for, and the chip's size; "" if none is."""
    percent = "" if score is None else f"{100 * score:.0f}%"
    font = _font(scale.font)
    height = sum(font.getmetrics()) + scale.pad
    for text in (f"{name} {percent}".strip(), name, *(name[:n] + "…" for n in range(len(name) - 1, 2, -1)), percent):
        length = font.getlength(text) + 3 * scale.pad
        if text and length <= width:
            return text, (length, height)
    return "", (0, 0)


def _place(rect: Rect, size: tuple[float, float], stroke: int, width: int, height: int, used: Sequence[Rect]) -> Rect:
    """Where a chip goes: in the image, at its box, off other chips; where all locations overlap, the least covered."""
    w, h = size
    left, top, right, bottom = rect
    right, bottom = right + 1, bottom + 1
    edge = max(1, stroke // 2)  # flush with the halo
    corners = [
        (left - edge, top - edge - h),  # above
        (right + edge - w, top - edge - h),
        (left - edge, bottom + edge),  # below
        (right + edge - w, bottom + edge),
        (left + stroke, top + stroke),  # inside
        (left + stroke, bottom - stroke - h),
        (right - stroke - w, top + stroke),
        (right - stroke - w, bottom - stroke - h),
    ]
    best, least = (0.0, 0.0, w, h), math.inf
    for rank, (x, y) in enumerate(corners):
        inside_x, inside_y = min(max(x, 0), width - w), min(max(y, 0), height - h)
        chip = (inside_x, inside_y, inside_x + w, inside_y + h)
        moved = abs(inside_y - y) / h  # a chip pushed back into the image covers its own object
        cost = sum(_overlap(chip, other) for other in used) / (w * h) + 0.5 * moved + 0.02 * rank
        if cost < least:
            best, least = chip, cost
    return best


def _overlap(a: Rect, b: Rect) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _chip(layer: ImageDraw.ImageDraw, chip: Rect, text: str, paint: RGB, scale: _Scale) -> None:
    x1, y1, x2, y2 = (round(v) for v in chip)
    layer.rounded_rectangle((x1, y1, x2 - 1, y2 - 1), radius=scale.pad, fill=(*paint, 235), outline=HALO)
    ascent, descent = _font(scale.font).getmetrics()
    baseline = y1 + (y2 - y1 + ascent - descent) / 2
    layer.text((x1 + 1.5 * scale.pad, baseline), text, font=_font(scale.font), fill=(*ink(paint), 255), anchor="ls")


def is_drawing(path: Path) -> bool:
    """Whether a file is a drawing that ``foveal predict`` wrote."""
    try:
        with Image.open(path, formats=["JPEG"]) as image:
            return image.info.get("comment") == MARK
    except (OSError, ValueError):
        return False
