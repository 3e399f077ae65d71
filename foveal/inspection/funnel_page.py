"""The page of a miss funnel: its bars, the classes, and example images of every verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image, ImageDraw

from ..data.images.load import load_image
from ..files.atomic import write_text
from ..files.text import one_line
from ..inference.draw import color
from .funnel import Funnel, LostObject
from .page import template_text
from .payload import data_uri
from .verdicts import VERDICT_TEXTS, ObjectVerdict

FROM = 0.3  # score from which detections are drawn
SIDE = 320  # pixels of the longer side of an example

HELPS = {
    ObjectVerdict.FOUND: "For comparison.",
    ObjectVerdict.NO_PRIOR: "No anchor, location or proposal fits these objects: look at sizes, aspect ratios, strides "
    "and the input size.",
    ObjectVerdict.NOT_MATCHED: "Their priors are all assigned to other objects: crowded scenes, or too few priors.",
    ObjectVerdict.NOT_SAMPLED: "Their priors are positive, but the sampler took none of them in this pass.",
    ObjectVerdict.SCORE: "A box lies on them, but the detector is unsure: more training, or a lower threshold.",
    ObjectVerdict.LIMIT: "Their boxes were good, but beyond a limit: select.per_level, select.per_class, suppress.top.",
    ObjectVerdict.NMS: "Their boxes were good, and removed by a better-scored one: neighbors, or suppress.iou too low.",
    ObjectVerdict.PLACE: "The detector sees them, but no box overlaps them by half.",
    ObjectVerdict.CLASS: "A box lies on them, of another class.",
}


def write_funnel(funnel: Funnel, path: Path, model: str) -> Path:
    """Writes the page to a file, which is complete or absent, and returns its path. ``model``: what to call it."""
    write_text(path, funnel_page(funnel, model))
    return path


def funnel_page(funnel: Funnel, model: str) -> str:
    """The page as text."""
    rows = []
    for verdict, text in VERDICT_TEXTS.items():
        examples = [_example(one, funnel.classes) for one in funnel.examples if one.verdict.verdict == verdict]
        row = {"name": verdict.value, "text": text, "count": funnel.count(verdict), "help": HELPS[verdict]}
        rows.append(row | {"examples": examples if verdict != ObjectVerdict.FOUND else []})
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template_text("funnel.html")).render(
        funnel=funnel,
        model=one_line(model),
        rows=rows,
        classes=list(_classes(funnel)) if len(funnel.classes) > 1 else [],
        css=template_text("page.css"),
        command=f"foveal inspect {one_line(model)} IMAGE --data DATA",
        **{"from": FROM},
    )


def _classes(funnel: Funnel) -> Iterator[tuple[str, list[int]]]:
    """The classes with objects, by the number lost."""
    lost = funnel.counts.sum(1) - funnel.counts[:, 0]
    for c in np.argsort(-lost, kind="stable"):
        if funnel.counts[c].sum():
            yield one_line(funnel.classes[c]), funnel.counts[c].tolist()


def _example(lost: LostObject, classes: tuple[str, ...]) -> dict[str, Any]:
    """The object with its surroundings, and the detections near it."""
    image = Image.fromarray(load_image(lost.record.path))
    x1, y1, x2, y2 = lost.record.boxes[lost.object]
    margin = max(0.75 * max(x2 - x1, y2 - y1), 24.0)
    window = (max(0, int(x1 - margin)), max(0, int(y1 - margin)), min(image.width, int(x2 + margin) + 1),
              min(image.height, int(y2 + margin) + 1))  # fmt: skip
    scale = SIDE / max(window[2] - window[0], window[3] - window[1], 1)
    size = (max(1, round((window[2] - window[0]) * scale)), max(1, round((window[3] - window[1]) * scale)))
    crop = image.crop(window).resize(size)
    pen = ImageDraw.Draw(crop)
    shown = lost.detections.above(FROM)
    for box, label in zip(shown.boxes.tolist(), shown.labels.tolist(), strict=True):
        corners = [(v - window[k % 2]) * scale for k, v in enumerate(box)]
        if corners[2] > corners[0] and corners[3] > corners[1]:
            pen.rectangle(corners, outline=color(label), width=2)
    _dashed(pen, [(v - window[k % 2]) * scale for k, v in enumerate((x1, y1, x2, y2))])
    name = "object" if len(classes) == 1 else classes[int(lost.record.labels[lost.object])]
    return {"src": data_uri(crop, "jpeg"), "label": one_line(name), "image": one_line(lost.record.path.name),
            "text": lost.verdict.text}  # fmt: skip


def _dashed(pen: ImageDraw.ImageDraw, box: list[float]) -> None:
    """A white dashed rectangle on a black one, seen on any photo."""
    x1, y1, x2, y2 = box
    pen.rectangle([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)], outline=(0, 0, 0), width=3)
    for start, end in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        (ax, ay), (bx, by) = start, end
        length = max(abs(bx - ax), abs(by - ay), 1.0)
        for at in np.arange(0, length, 10):
            to = min(at + 6, length)
            pen.line([ax + (bx - ax) * at / length, ay + (by - ay) * at / length, ax + (bx - ax) * to / length,
                      ay + (by - ay) * to / length], fill=(255, 255, 255), width=2)  # fmt: skip
