"""How four numbers describe a box: which points or sizes they are, in which unit and in which order."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError, nearest

Layout = Literal["corners", "top-left", "centers", "ranges"]
Unit = Literal["pixels", "fractions", "percent"]

Numbers = tuple[float, float, float, float]

_SAID: dict[Layout, str] = {
    "corners": "x1, y1, x2, y2",
    "top-left": "x, y, width, height",
    "centers": "center x, center y, width, height",
    "ranges": "x1, x2, y1, y2",
}
_SAID_SWAPPED: dict[Layout, str] = {
    "corners": "y1, x1, y2, x2",
    "top-left": "y, x, height, width",
    "centers": "center y, center x, height, width",
    "ranges": "y1, y2, x1, x2",
}


@dataclass(frozen=True)
class Convention:
    """What the numbers of a box mean. The text form, which ``--convention`` takes, is that of :meth:`parse`."""

    layout: Layout
    unit: Unit = "pixels"
    frame: tuple[float, float] | None = None  # (width, height) of the image that the pixels are of, where another
    swapped: bool = False  # y before x, height before width
    first_class: int = 0  # the smallest class number of a YOLO label file

    @classmethod
    def parse(cls, text: str, base: Convention) -> Convention:
        """``corners,fractions``: the ``base`` with these words applied. Raises :class:`UsageError` for an unknown one.

        Words: corners, top-left, centers, ranges; pixels, fractions, percent, or a frame such as 640x480; yx; from-1.
        """
        words = [word.strip().lower() for word in re.split(r"[,\s]+", text) if word.strip()]
        if not words:
            raise UsageError("the convention is empty", where="--convention", fix=f"Choose from {', '.join(_WORDS)}")
        for word in words:
            frame = re.fullmatch(r"(\d{1,6})x(\d{1,6})", word)
            if frame is not None and min(sides := (float(frame[1]), float(frame[2]))) > 0:
                base = replace(base, unit="pixels", frame=sides)
            elif word in _WORDS:
                base = _WORDS[word](base)
            else:
                hint = nearest(word, [*_WORDS, "WIDTHxHEIGHT"], "words")
                raise UsageError(f"the convention {word!r} is unknown", where="--convention", fix=hint)
        return base

    def words(self, base: Convention) -> str:
        """The text that turns ``base`` into this one, for ``--convention``."""
        out: list[str] = []
        if self.layout != base.layout:
            out.append(self.layout)
        if self.frame is not None:
            out.append(f"{self.frame[0]:.0f}x{self.frame[1]:.0f}")
        elif (self.unit, None) != (base.unit, base.frame):
            out.append(self.unit)
        if self.swapped and not base.swapped:
            out.append("yx")
        if self.first_class and not base.first_class:
            out.append("from-1")
        return ",".join(out) or self.layout

    def __str__(self) -> str:
        said = (_SAID_SWAPPED if self.swapped else _SAID)[self.layout]
        unit = {"pixels": "pixels", "fractions": "fractions of the image", "percent": "percent of the image"}[self.unit]
        if self.frame is not None:
            unit = f"pixels of an image of {self.frame[0]:.0f} x {self.frame[1]:.0f}"
        return f"{said} in {unit}"

    def boxes(self, numbers: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
        """xyxy pixels (N, 4) of ``numbers`` (N, 4) in images of ``sizes`` (N, 2), width and height."""
        a = numbers[:, [0, 2, 1, 3]] if self.layout == "ranges" else numbers
        a = a[:, [1, 0, 3, 2]] if self.swapped else a
        low, high = a[:, :2], a[:, 2:]
        if self.layout == "top-left":
            high = low + high
        elif self.layout == "centers":
            low, high = low - high / 2, low + high / 2
        return np.concatenate([low, high], 1) * np.tile(self.scale(sizes), 2)

    def scale(self, sizes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels for one unit in x and y (N, 2), in images of ``sizes`` (N, 2)."""
        if self.frame is not None:
            return np.asarray(sizes / np.array(self.frame))
        scales: dict[Unit, NDArray[np.float64]] = {
            "pixels": np.ones_like(sizes),
            "fractions": sizes,
            "percent": sizes / 100,
        }
        return scales[self.unit]


def as_written(box: Numbers, layout: Layout) -> Numbers:
    """The four numbers of an xyxy ``box`` as this layout writes them, in the same unit."""
    x1, y1, x2, y2 = box
    if layout == "corners":
        return box
    if layout == "ranges":
        return x1, x2, y1, y2
    low = (x1, y1) if layout == "top-left" else ((x1 + x2) / 2, (y1 + y2) / 2)
    return (*low, x2 - x1, y2 - y1)


_WORDS: dict[str, Callable[[Convention], Convention]] = {}


def _word(*names: str, **changes: Any) -> None:
    for name in names:
        _WORDS[name] = lambda base: replace(base, **changes)


_word("corners", "xyxy", layout="corners")
_word("top-left", "xywh", layout="top-left")
_word("centers", "cxcywh", layout="centers")
_word("ranges", "xxyy", layout="ranges")
_word("pixels", unit="pixels", frame=None)
_word("fractions", unit="fractions", frame=None)
_word("percent", unit="percent", frame=None)
_word("yx", swapped=True)
_word("from-1", first_class=1)
