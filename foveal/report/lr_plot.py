"""The learning-rate range test as a plot and a line to act on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files.atomic import write_bytes, write_json
from ..training.lr_finder import LRCurve, find_lr
from .plots import lines

NAME = "lr_finder"


def find_and_plot(spec: Any, **options: Any) -> str:
    """Runs the test, writes ``lr_finder.json`` and ``lr_finder.png`` into the run folder, and returns what it found."""
    curve = find_lr(spec, **options)
    folder = Path(curve.folder)
    suggestion = float(f"{curve.steepest:.2g}")
    values = {"fit.lr": curve.rates, "loss": curve.losses, "smoothed": curve.smoothed, "suggestion": suggestion}
    write_json(folder / f"{NAME}.json", values)
    write_bytes(folder / f"{NAME}.png", plot(curve))
    return (
        f"the loss falls fastest at a learning rate of {suggestion:g} and is lowest at {curve.lowest:.2g}; the recipe "
        f"has {curve.recipe:g}. To train with the first: fit.lr={suggestion:g} ({folder / NAME}.png)"
    )


def plot(curve: LRCurve) -> bytes:
    """A PNG: loss against the learning rate on a logarithmic axis, with the suggestion and the recipe's rate."""
    top = max(curve.smoothed)
    series = {
        "loss": (curve.rates, [min(loss, 1.5 * top) for loss in curve.losses]),
        "smoothed": (curve.rates, curve.smoothed),
        f"steepest: {curve.steepest:.2g}": ([curve.steepest] * 2, [0.0, top]),
        f"recipe: {curve.recipe:g}": ([curve.recipe] * 2, [0.0, top]),
    }
    dashed = list(series)[2:]
    return lines(series, title="Learning-rate range test", x="fit.lr", y="loss", dashed=dashed, log_x=True)
