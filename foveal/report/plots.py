"""Plots for reports: matplotlib without a display, as PNG that a page can hold."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..evaluation.curves import Curve
from ..files.text import one_line
from ..inference.draw import color

LONGEST = 40  # letters of a name in a plot
INK, GRID = "#33404d", "#e3e8ee"


def _figure(title: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks are boxes; names may leave little room
        figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def lines(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x: str,
    y: str,
    dashed: Sequence[str] = (),
    bottom: float | None = 0.0,
    log_x: bool = False,
) -> bytes:
    """A PNG of named lines (x values, y values). ``dashed``: those drawn with dashes."""
    figure, axes = _figure(title, x, y)
    if log_x:
        axes.set_xscale("log")
    for i, (name, (xs, ys)) in enumerate(series.items()):
        # a class color is made for photos; on paper it has to be darker
        paint = [c / 255 * 0.82 for c in color(i)]
        style = "--" if name in dashed else "-"
        axes.plot(xs, ys, style, color=paint, label=_plain(name), linewidth=1.6, marker="." if len(xs) < 40 else None)
    if bottom is not None and series:
        axes.set_ylim(bottom=bottom)
    if series:
        axes.legend(fontsize=8, frameon=False, ncols=1 + len(series) // 9)
    return _png(figure)


def precision_recall(curves: Mapping[str, Curve], *, iou: float, count: int = 20) -> bytes:
    """A PNG of the precision-recall curves of the classes with objects, the most frequent ``count`` of them."""
    shown = sorted((n for n in curves if curves[n].objects), key=lambda n: -curves[n].objects)[:count]
    figure, axes = _figure(f"Precision and recall at IoU {iou:g}", "recall", "precision")
    for name in curves:
        if name not in shown:
            continue
        curve = curves[name]
        paint = [c / 255 * 0.82 for c in color(list(curves).index(name))]
        # the precision that AP counts: the best one at this recall or above
        envelope = np.maximum.accumulate(curve.precision[::-1])[::-1]
        recall = np.concatenate([[0.0], curve.recall])
        precision = np.concatenate([envelope[:1] if len(envelope) else [0.0], envelope])
        axes.plot(recall, precision, color=paint, label=_plain(f"{name} ({curve.objects})"), linewidth=1.6)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    if shown:
        axes.legend(fontsize=8, frameon=False, ncols=1 + len(shown) // 9)
    return _png(figure)


def _plain(name: str) -> str:
    """A name as it is: matplotlib reads what lies between two ``$`` as a formula, and leaves out labels in ``_``."""
    text = one_line(name, LONGEST).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def inline(data: bytes, kind: str = "png") -> str:
    """An image as a URL that carries it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def jpeg(image: Image.Image, side: int = 560) -> bytes:
    """An image as JPEG, its longer side at most ``side`` pixels."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()
