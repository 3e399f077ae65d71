"""Draws one image of the synthetic ``shapes`` dataset: textured background, distractors without a class, flat shapes.

Shapes are signed distance functions (negative inside), so that edges, outlines and soft shadows have the same code for
all of them. Everything is NumPy on small windows: an image of 256 x 256 takes some milliseconds.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]
Color = NDArray[np.float32]  # (3, 1, 1) in 0..1

# class -> frequency (the last class is rare) and preferred hue in turns, see FAITHFUL
CLASSES: dict[str, tuple[float, float]] = {
    "disc": (0.28, 0.57),
    "square": (0.24, 0.07),
    "triangle": (0.19, 0.36),
    "ring": (0.14, 0.80),
    "cross": (0.10, 0.98),
    "star": (0.05, 0.14),
}
FAITHFUL = 0.6  # probability that a shape has the preferred hue of its class
EMPTY = 0.1  # fraction of images without an object
SIZES = (0.08, 0.46)  # smallest and largest diameter, relative to the shorter side of the image
VISIBLE = 0.55  # fraction of an object that others must not cover
MIN_SIDE = 6  # pixels: minimum side of a visible box


@dataclass(frozen=True)
class Scene:
    """One image and its objects, in the order of drawing."""

    image: NDArray[np.uint8]  # (H, W, 3)
    boxes: NDArray[np.int64]  # (G, 4) half-open pixels around the visible part
    labels: NDArray[np.int64]  # (G,) index into CLASSES
    owner: NDArray[np.int16]  # (H, W) index of the object at each pixel; -1: none
    truncated: NDArray[np.bool_]  # (G,) extends beyond the image's edge
    occluded: NDArray[np.bool_]  # (G,) partly covered by another


def draw_scene(width: int, height: int, rng: np.random.Generator) -> Scene:
    """An image of this size, determined by the state of the generator."""
    canvas = _background(width, height, rng)
    _distractors(canvas, rng)
    count = 0 if rng.random() < EMPTY else min(14, 1 + int(rng.poisson(4)))
    frequency = np.array([f for f, _ in CLASSES.values()])
    board = _Board(width, height)
    labels: list[int] = []
    truncated: list[bool] = []
    centers: list[tuple[float, float, float]] = []
    for _ in range(count):
        label = int(rng.choice(len(CLASSES), p=frequency / frequency.sum()))
        for _ in range(8):
            place = _place(width, height, centers, rng)
            shape = _shape(label, place, width, height, float(rng.random()) * 2 * math.pi)
            if board.add(shape):
                _paint(canvas, shape, label, rng)
                labels.append(label)
                truncated.append(shape.truncated)
                centers.append(place)
                break
    grain = rng.integers(-6, 7, (height, width), dtype=np.int16) * np.float32(rng.uniform(0.3, 1.2))
    pixels = (canvas * np.float32(255) + grain).clip(0, 255).astype(np.uint8)
    return Scene(
        np.ascontiguousarray(pixels.transpose(1, 2, 0)),
        np.array(board.boxes, np.int64).reshape(-1, 4),
        np.array(labels, np.int64),
        board.owner,
        np.array(truncated, np.bool_),
        np.array(board.seen, np.int64) < np.array(board.areas, np.int64),
    )


# -------------------------------------------------------------------------------------------------- placing
@dataclass(frozen=True)
class _Shape:
    """A shape in its window of the image."""

    window: tuple[slice, slice]
    distance: Plane  # to the edge, in pixels, negative inside
    shadow: Plane  # the same, shifted
    inside: NDArray[np.bool_]
    across: Plane  # -1..1 along the light
    truncated: bool
    radius: float


def _place(
    width: int, height: int, placed: list[tuple[float, float, float]], rng: np.random.Generator
) -> tuple[float, float, float]:
    """x, y and radius. Sizes are log-uniform within SIZES; some shapes are put next to another."""
    side = min(width, height)
    size = side * SIZES[0] * (SIZES[1] / SIZES[0]) ** rng.random()
    radius = max(MIN_SIDE, float(size) / 2)
    edge = 0.6 * radius
    u, v, company, angle, which = rng.random(5)
    if placed and company < 0.35:
        x0, y0, r0 = placed[int(which * len(placed))]
        gap = (0.75 + 0.35 * float(u)) * (radius + r0)
        x, y = x0 + gap * math.cos(2 * math.pi * angle), y0 + gap * math.sin(2 * math.pi * angle)
        return min(max(x, edge), width - edge), min(max(y, edge), height - edge), radius
    return edge + u * (width - 2 * edge), edge + v * (height - 2 * edge), radius


def _shape(label: int, place: tuple[float, float, float], width: int, height: int, angle: float) -> _Shape:
    x0, y0, radius = place
    reach = radius * 1.25 + 3
    left, top = max(0, math.floor(x0 - reach)), max(0, math.floor(y0 - reach))
    right, bottom = min(width, math.ceil(x0 + reach)), min(height, math.ceil(y0 + reach))
    rows = np.arange(top, max(top, bottom), dtype=np.float32)[:, None] + np.float32(0.5 - y0)
    columns = np.arange(left, max(left, right), dtype=np.float32)[None] + np.float32(0.5 - x0)
    distance = _distance(label, columns, rows, radius, angle)
    lift = 0.06 * radius + 1
    inside = distance < 0
    body = x0 - radius < 0 or y0 - radius < 0 or x0 + radius > width or y0 + radius > height
    cut = bool(body and (_touches(inside, left == 0, top == 0, right == width, bottom == height)))
    return _Shape(
        (slice(top, max(top, bottom)), slice(left, max(left, right))),
        distance,
        _distance(label, columns - lift, rows - 1.5 * lift, radius, angle),
        inside,
        ((columns + rows) / (1.42 * radius)).clip(-1, 1),
        cut,
        radius,
    )


def _touches(inside: NDArray[np.bool_], left: bool, top: bool, right: bool, bottom: bool) -> bool:
    if not inside.size:
        return False
    ends = ((left, inside[:, 0]), (right, inside[:, -1]), (top, inside[0]), (bottom, inside[-1]))
    return any(edge and bool(line.any()) for edge, line in ends)


def _distance(label: int, x: Plane, y: Plane, radius: float, angle: float) -> Plane:
    """Signed distance of pixels to the edge of a class's shape, which fits into a circle of ``radius``."""
    return np.asarray(_edge(label, x, y, radius, angle), dtype=np.float32)


def _edge(label: int, x: Plane, y: Plane, radius: float, angle: float) -> NDArray[np.floating[Any]]:
    name = list(CLASSES)[label]
    if name in ("disc", "ring"):
        length = np.sqrt(x * x + y * y)
        return length - radius if name == "disc" else np.abs(length - 0.74 * radius) - 0.26 * radius
    c, s = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    x, y = c * x + s * y, c * y - s * x
    if name == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.74 * radius
    if name == "cross":
        a, b = np.abs(x), np.abs(y)
        long, wide = 0.95 * radius, 0.3 * radius
        return np.maximum(np.maximum(a, b) - long, np.minimum(a, b) - wide)
    if name == "triangle":
        third = 2 * math.pi / 3
        sides = [x * math.cos(k * third) + y * math.sin(k * third) for k in range(3)]
        return np.maximum(np.maximum(sides[0], sides[1]), sides[2]) - 0.5 * radius
    # star: folded into half of one of its five rays, where its edge is a straight line from tip to dent
    ray = 2 * math.pi / 5
    length, turn = np.hypot(x, y), np.arctan2(y, x)
    turn = np.abs(turn - ray * np.rint(turn / ray))
    dent = 0.42 * radius
    edge = np.array([dent * math.cos(ray / 2) - radius, dent * math.sin(ray / 2)])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return np.asarray((length * np.cos(turn) - radius) * normal[0] + length * np.sin(turn) * normal[1])


class _Board:
    """The object at each pixel, and the visible part of each object."""

    def __init__(self, width: int, height: int) -> None:
        self.owner = np.full((height, width), -1, dtype=np.int16)
        self.areas: list[int] = []  # drawn
        self.seen: list[int] = []  # not covered since
        self.boxes: list[tuple[int, int, int, int]] = []

    def add(self, shape: _Shape) -> bool:
        """Draws it on top, unless that would cover too much of another; whether it was drawn."""
        box = _extent(shape.inside, shape.window[1].start, shape.window[0].start)
        if box is None or not _large(box):
            return False
        part = self.owner[shape.window]
        below = part[shape.inside]
        hidden = np.bincount(below[below >= 0], minlength=len(self.seen))
        covered = np.flatnonzero(hidden).tolist()
        if any(self.seen[k] - hidden[k] < VISIBLE * self.areas[k] for k in covered):
            return False
        before = part.copy()
        part[shape.inside] = len(self.areas)
        boxes = {k: self._box(k) for k in covered}
        if not all(_large(b) for b in boxes.values()):
            part[...] = before
            return False
        for k, b in boxes.items():
            self.seen[k] -= int(hidden[k])
            self.boxes[k] = b
        self.areas.append(int(shape.inside.sum()))
        self.seen.append(self.areas[-1])
        self.boxes.append(box)
        return True

    def _box(self, k: int) -> tuple[int, int, int, int]:
        """The extent of what can be seen of an object; never beyond where it was."""
        x1, y1, x2, y2 = self.boxes[k]
        return _extent(self.owner[y1:y2, x1:x2] == k, x1, y1) or (0, 0, 0, 0)


def _extent(mask: NDArray[np.bool_], left: int, top: int) -> tuple[int, int, int, int] | None:
    """The half-open box around the true pixels of a window."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not len(columns):
        return None
    return left + int(columns[0]), top + int(rows[0]), left + int(columns[-1]) + 1, top + int(rows[-1]) + 1


def _large(box: tuple[int, int, int, int]) -> bool:
    return box[2] - box[0] >= MIN_SIDE and box[3] - box[1] >= MIN_SIDE


# ------------------------------------------------------------------------------------------------- painting
def _rgb(hue: float, saturation: float, value: float) -> Color:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), dtype=np.float32)[:, None, None]


def _noise(width: int, height: int, cells: int, rng: np.random.Generator) -> Plane:
    """Smooth noise in -1..1 with about ``cells`` bumps along the longer side."""
    scale = cells / max(width, height)
    grid = rng.uniform(-1, 1, (max(2, round(height * scale)), max(2, round(width * scale)))).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def _background(width: int, height: int, rng: np.random.Generator) -> Plane:
    """(3, H, W) in about 0..1: a gradient between two muted colors, with noise and possibly a weave pattern."""
    hue, step = rng.random(), rng.uniform(-0.15, 0.15)
    value = rng.uniform(0.25, 0.8)
    first = _rgb(hue, rng.uniform(0.08, 0.35), value)
    second = _rgb(hue + step, rng.uniform(0.08, 0.35), value * rng.uniform(0.6, 1.0))
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    blend = 0.5 + 0.35 * (math.cos(angle) * x + math.sin(angle) * y) + 0.3 * _noise(width, height, 4, rng)
    canvas = first + (second - first) * blend.clip(0, 1).astype(np.float32)
    light = 1 + 0.10 * _noise(width, height, 9, rng) + 0.08 * _noise(width, height, 40, rng)
    if rng.random() < 0.45:
        turn, waves = rng.uniform(0, math.pi), rng.uniform(20, 60)
        phase = waves * (math.cos(turn) * x + math.sin(turn) * y) + 2 * _noise(width, height, 3, rng)
        light = light + rng.uniform(0.02, 0.06) * np.sin(phase)
    return np.asarray(canvas * light.astype(np.float32), dtype=np.float32)


def _distractors(canvas: Plane, rng: np.random.Generator) -> None:
    """Draws distractors: thin straight or curved strokes, and specks."""
    height, width = canvas.shape[1:]
    side = min(width, height)
    for _ in range(int(rng.integers(0, 5))):
        x0, y0, angle = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0, 2 * math.pi)
        bend = rng.uniform(-0.6, 0.6) / side
        length, thick = rng.uniform(0.15, 0.5) * side, rng.uniform(0.004, 0.010) * side
        part, x, y = _near(canvas, x0, y0, 1.1 * length + thick)
        along, off = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
        distance = np.maximum(np.abs(off - bend * along**2) - thick, np.abs(along) - length)
        _over(part, distance, _rgb(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.15, 0.95)), 0.7)
    for _ in range(int(rng.integers(0, 25))):
        x0, y0, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.003, 0.009) * side
        part, x, y = _near(canvas, x0, y0, radius)
        _over(part, np.hypot(x, y) - radius, _rgb(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.1, 1)), 0.8)


def _near(canvas: Plane, x0: float, y0: float, reach: float) -> tuple[Plane, Plane, Plane]:
    """The window of the canvas around a point, and its pixels' x (1, w) and y (h, 1) relative to it."""
    left, top = max(0, int(x0 - reach - 1)), max(0, int(y0 - reach - 1))
    part = canvas[:, top : int(y0 + reach + 2), left : int(x0 + reach + 2)]
    x = np.arange(left, left + part.shape[2], dtype=np.float32)[None] - np.float32(x0)
    return part, x, np.arange(top, top + part.shape[1], dtype=np.float32)[:, None] - np.float32(y0)


def _over(canvas: Plane, distance: Plane, color: Plane, opacity: float, soft: float = 1.0) -> None:
    """Blends a color over the inside of an edge of ``soft`` pixels, in place."""
    cover = (np.float32(0.5) - distance / np.float32(soft)).clip(0, 1) * np.float32(opacity)
    canvas += cover * (color - canvas)


def _paint(canvas: Plane, shape: _Shape, label: int, rng: np.random.Generator) -> None:
    """Draws a shape: possibly a shadow, the body with light from one side and possibly stripes, possibly an outline."""
    part = canvas[:, *shape.window]
    around = part[:, shape.inside].mean(1)[:, None, None]
    preferred = list(CLASSES.values())[label][1]
    faithful = rng.random() < FAITHFUL
    for _ in range(10):  # a color that differs from the background
        hue = preferred + rng.normal(0, 0.025) if faithful else rng.random()
        color = _rgb(float(hue), rng.uniform(0.5, 0.95), rng.uniform(0.5, 1.0))
        if np.abs(color - around).max() > 0.3:
            break
    if rng.random() < 0.6:
        _over(part, shape.shadow, np.zeros((3, 1, 1), np.float32), 0.35, soft=0.12 * shape.radius + 2)
    light = 1 - rng.uniform(0.05, 0.22) * shape.across
    if rng.random() < 0.25:
        rows, columns = np.indices(light.shape, dtype=np.float32)
        light = light + 0.10 * np.sin((columns + rng.choice([-1, 1]) * rows) * (6.0 / max(8.0, 0.5 * shape.radius)))
    _over(part, shape.distance, color * light.astype(np.float32), 1.0)
    if rng.random() < 0.5:
        line = max(0.6, 0.045 * shape.radius)
        _over(part, np.abs(shape.distance + line) - line, color * np.float32(rng.choice([0.45, 1.35])), 0.85)
