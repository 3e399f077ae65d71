"""How the objects of a set fit a detector: their sizes at its input, and whether its anchors reach them.

The numbers come from :mod:`foveal.checks.object_fit`; here they become text and a section of the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ...files.cutouts import Cutout, cutout
from ...files.pages import page_environment, template_text
from ...files.text import one_line
from .charts import SIDE_NAMES, bars, figure
from .pictures import AMBER, GREEN, RED, WHITE, Picture, Pictures, spread

TINY, SMALL = 8.0, 16.0  # sides at the input, pixels: less than a cell of stride 8, and of stride 16
DOTS = 1500  # objects in the chart of sizes, of each color
EXAMPLES = 8
COLORS = {"out": RED, "near": AMBER, "ok": GREEN}


@dataclass(frozen=True)
class LevelFit:
    """One level of anchors, over all objects."""

    stride: float  # pixels from cell to cell
    anchors: int  # per cell
    smallest: float  # sqrt(area) of its anchors, pixels of the input
    largest: float
    best: int  # objects whose best anchor is on this level
    reached: int  # objects that some anchor of this level overlaps by the threshold of a positive


@dataclass(frozen=True)
class FittedObject:
    """An object with the anchor that fits it best, both xyxy in pixels of the file."""

    path: str
    name: str
    text: str
    box: tuple[float, ...]
    anchor: tuple[float, ...] | None
    state: str  # "ok", "near", "out"; "" where there are no anchors


@dataclass(frozen=True)
class Advice:
    """Other anchors of the same number, from k-means, and what they reach."""

    override: str
    mean: float  # mean over the objects of the best IoU
    reached: int


@dataclass(frozen=True)
class DetectorFit:
    """The objects (N) at the input of a detector, and the best overlap of an anchor with each."""

    model: str
    rule: str  # the input rule
    split: str
    sides: NDArray[np.float64]  # (N, 2) width, height at the input, pixels
    tiniest: tuple[FittedObject, ...]
    reason: str = ""  # why anchors are not judged; "": they are
    iou: NDArray[np.float64] | None = None  # (N,)
    positive: float = 0.5  # overlap from which an anchor learns the object
    negative: float = 0.4  # below it the object is reached by nothing, or by force alone
    learned: str = ""  # what happens between the two
    levels: tuple[LevelFit, ...] = ()
    shapes: NDArray[np.float64] | None = None  # (K, 2) widths and heights of all anchors
    classes: tuple[tuple[str, int, int, int], ...] = ()  # name, objects, near, out
    examples: tuple[FittedObject, ...] = ()
    advice: Advice | None = None

    @property
    def tiny(self) -> int:
        """The number of objects of less than ``TINY`` pixels, by the square root of their area."""
        return int((np.sqrt(self.sides.prod(1)) < TINY).sum())

    @property
    def states(self) -> NDArray[np.str_]:
        """(N,) "ok", "near" or "out"."""
        assert self.iou is not None
        return np.where(self.iou >= self.positive, "ok", np.where(self.iou >= self.negative, "near", "out"))

    def recall(self, threshold: float) -> float:
        """The share of the objects that some anchor overlaps by this much: the best possible recall."""
        return float((self.iou >= threshold).mean()) if self.iou is not None and len(self.iou) else 0.0

    def text(self) -> str:
        """A few lines for a terminal."""
        n = len(self.sides)
        lines = [f"for {self.model}: {n} objects of {self.split}, at its input ({self.rule})"]
        if not n:
            return lines[0]
        lines.append(f"  {self.tiny} of {n} objects are under {TINY:g} pixels there (square root of the area)")
        if self.iou is None:
            return "\n".join([*lines, f"  {self.reason}"])
        counts = {state: int((self.states == state).sum()) for state in COLORS}
        lines.append(
            f"  {counts['out']} of {n} objects are reached by no anchor (IoU under {self.negative:g}), "
            f"{counts['near']} hardly (under {self.positive:g})"
        )
        shares = ", ".join(f"{self.recall(t):.4f} at IoU {t:g}" for t in (0.5, 0.6, 0.7))
        lines.append(f"  best possible recall: {shares}; mean IoU {self.iou.mean():.4f}")
        if self.advice is not None:
            reached = f"{self.advice.reached} of {n} at IoU {self.positive:g}"
            lines.append(f"  fitted anchors: mean IoU {self.advice.mean:.4f}, {reached} with")
            lines.append(f"    '{self.advice.override}'")
        else:
            lines.append("  no better anchors of this number were found")
        return "\n".join(lines)


def fit_section(fit: DetectorFit, pictures: Pictures) -> Callable[[], Markup]:
    """The section of the page; call the result once the pictures are drawn."""
    tiniest = [_pictured(one, pictures) for one in fit.tiniest]
    examples = [_pictured(one, pictures) for one in fit.examples]

    def render() -> Markup:
        edges = [0.0, *(4.0 * 2**k for k in range(9)), np.inf]
        sides = np.histogram(np.sqrt(fit.sides.prod(1)), edges)[0].tolist()
        counts = {} if fit.iou is None else {state: int((fit.states == state).sum()) for state in COLORS}
        environment = page_environment()
        return Markup(
            environment.from_string(template_text("fit.html", "foveal.data.doctor")).render(
                fit=fit, n=len(fit.sides), bars=bars(SIDE_NAMES, sides), figure=figure, tiniest=tiniest,
                examples=examples, counts=counts, chart=None if fit.iou is None else _chart(fit),
                recalls=[(t, fit.recall(t)) for t in (0.5, 0.6, 0.7, 0.8)], tiny=TINY, small=SMALL,
                smaller=int((np.sqrt(fit.sides.prod(1)) < SMALL).sum()), name=one_line,
            )
        )  # fmt: skip

    return render


def _pictured(one: FittedObject, pictures: Pictures) -> Picture:
    def look(pixels: np.ndarray[Any, Any]) -> Cutout:
        both = np.array([one.box, one.anchor or one.box])
        part = cutout(pixels, [*both[:, :2].min(0), *both[:, 2:].max(0)] if one.anchor else one.box)
        if one.anchor is not None:
            part.solid(one.anchor, COLORS[one.state])
        part.dashed(one.box, WHITE)
        return part

    return pictures.add(one.path, one.name, one.text, look)


def _chart(fit: DetectorFit) -> Markup:
    """Widths and heights at the input, logarithmic: objects in the colors of their reach, anchors as rings."""
    assert fit.iou is not None and fit.shapes is not None
    low = 2.0 ** math.floor(math.log2(max(1.0, min(16.0, float(fit.shapes.min()), float(fit.sides.min())))))
    high = 2.0 ** math.ceil(math.log2(max(64.0, float(fit.shapes.max()), float(fit.sides.max()))))
    size, left, bottom = 520, 44, 484

    def at(v: float) -> float:
        return (size - left - 12) * math.log2(max(v, low) / low) / math.log2(high / low)

    rows = []
    for k in range(round(math.log2(low)), round(math.log2(high)) + 1):
        x, y = left + at(2.0**k), bottom - at(2.0**k)
        rows.append(Markup('<line class="grid-line" x1="{0:.1f}" x2="{0:.1f}" y1="20" y2="{1}"/>'
                           '<line class="grid-line" x1="{2}" x2="508" y1="{3:.1f}" y2="{3:.1f}"/>'
                           '<text class="axis" x="{0:.1f}" y="{4}" text-anchor="middle">{5}</text>'
                           '<text class="axis" x="{6}" y="{7:.1f}" text-anchor="end">{5}</text>').format(
            x, bottom, left, y, bottom + 16, 2**k, left - 6, y + 4))  # fmt: skip
    for state in ("ok", "near", "out"):
        for w, h in spread(fit.sides[fit.states == state].tolist(), DOTS):
            rows.append(Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.2" fill-opacity=".55"/>').format(
                state, left + at(w), bottom - at(h)))  # fmt: skip
    for w, h in fit.shapes.tolist():
        rows.append(Markup('<circle class="anchor" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(
            left + at(w), bottom - at(h)))  # fmt: skip
    rows.append(Markup('<text class="axis" x="508" y="{}" text-anchor="end">width, pixels</text>'
                       '<text class="axis" x="4" y="14">height, pixels</text>').format(bottom + 32))  # fmt: skip
    return Markup('<svg viewBox="0 0 520 520" role="img" aria-label="Sizes of objects and anchors">{}</svg>').format(
        Markup("").join(rows)
    )
