"""Images of a page with objects and detections, drawn by the page itself: a score decides again what is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from ..data.images.load import ImageError, load_image
from ..evaluation.tables import DetectionTable, GroundTruth
from ..files.aliases import Floats, Ints
from ..files.pages import page_script, page_style, script_json, template_text
from ..files.text import one_line
from .plots import inline, jpeg

SIDE = 480  # pixels of the longer side of an image
SHOWN = 100  # detections an image and run
LOWEST = 0.05  # score from which detections are in the page, or half the threshold where that is lower


@dataclass(frozen=True, eq=False)
class GalleryRun:
    """The detections of a run."""

    side: int  # its color, and the side it is on
    label: str
    table: DetectionTable
    cut: float  # the score from which detections are drawn at first


@dataclass(frozen=True, eq=False)
class GalleryList:
    """An order of images, seen with the runs of one side or of two."""

    name: str
    sides: tuple[int, ...]
    order: Ints  # (n,) indices of images
    influence: Floats  # (n,) of each on the score, or on the difference
    commands: tuple[str, ...] = ()  # what shows more of each; those of the first lists suffice


def balanced(influence: Floats, each: int) -> Ints:
    """The images of the largest influence, at most ``each`` of either sign, in turn."""
    values = np.nan_to_num(influence)
    order = np.argsort(-np.abs(values), kind="stable")
    for_it, against = order[values[order] > 0][:each], order[values[order] < 0][:each]
    turns = [i for pair in zip(for_it.tolist(), against.tolist(), strict=False) for i in pair]
    rest = [i for i in (*for_it.tolist(), *against.tolist()) if i not in turns]
    return np.array([*turns, *rest], np.int64)


def gallery_json(truth: GroundTruth, runs: Sequence[GalleryRun], lists: Sequence[GalleryList]) -> Markup:
    """The data of a gallery as JSON that may stand within a ``script`` element."""
    used = list(dict.fromkeys(int(i) for one in lists for i in one.order))
    place = {image: k for k, image in enumerate(used)}
    data = {
        "classes": [one_line(c) for c in truth.classes],
        "runs": [{"side": r.side, "label": one_line(r.label), "cut": round(r.cut, 4)} for r in runs],
        "images": [_image(truth, i, runs) for i in used],
        "lists": [
            {
                "name": one.name,
                "sides": list(one.sides),
                "order": [place[int(i)] for i in one.order],
                "influence": [round(float(v), 6) for v in one.influence],
                "commands": [one_line(c) for c in one.commands],
            }
            for one in lists
        ],
    }
    return Markup(script_json(data))


def template_file(name: str) -> Markup:
    """A style sheet or script of the pages, as it is."""
    return Markup(page_style() if name == "page.css" else template_text(name, "foveal.report"))


def gallery_scripts() -> list[Markup]:
    """The scripts of a page with a gallery, in their order."""
    return [Markup(page_script()), template_file("switch.js"), template_file("gallery.js")]


def _image(truth: GroundTruth, index: int, runs: Sequence[GalleryRun]) -> dict[str, Any]:
    path = None if truth.files is None else Path(truth.files[index])
    source = None
    width, height = (640, 480) if truth.sizes is None else (int(truth.sizes[index, 1]), int(truth.sizes[index, 0]))
    try:
        if path is not None:
            source = inline(jpeg(Image.fromarray(load_image(path)), SIDE), "jpeg")
    except ImageError:
        pass  # the page says so
    rows = np.flatnonzero(truth.image == index)
    counted = ~(truth.crowd | truth.difficult | truth.ignore)
    return {
        "name": one_line(str(truth.images[index]) if path is None else path.name),
        "w": width,
        "h": height,
        "src": source,
        "objects": [[*_rounded(truth.box[g]), int(truth.label[g]), int(counted[g])] for g in rows],
        "runs": [_detections(run, index) for run in runs],
    }


def _detections(run: GalleryRun, index: int) -> list[list[float]]:
    table = run.table
    rows = np.flatnonzero((table.image == index) & (table.score >= min(LOWEST, run.cut / 2)))
    rows = rows[np.argsort(-table.score[rows], kind="stable")][:SHOWN]
    return [[*_rounded(table.box[n]), int(table.label[n]), round(float(table.score[n]), 3)] for n in rows]


def _rounded(box: Floats) -> list[float]:
    return [round(float(v), 1) for v in box]
