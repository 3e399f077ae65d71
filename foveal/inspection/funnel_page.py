"""The page of a miss funnel: its bars, the classes, and example images of every verdict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images.load import load_image
from ..files.atomic import write_text
from ..files.cutouts import cutout
from ..files.pages import data_uri, page_environment, page_style, template_text
from ..files.text import one_line
from ..inference.draw import color
from .funnel import Funnel, LostObject
from .page import PACKAGE
from .verdicts import VERDICT_TEXTS, ObjectVerdict

FROM = 0.3  # score from which detections are drawn

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
    return (
        page_environment()
        .from_string(template_text("funnel.html", PACKAGE))
        .render(
            funnel=funnel,
            model=one_line(model),
            rows=rows,
            classes=list(_classes(funnel)) if len(funnel.classes) > 1 else [],
            css=page_style(),
            command=f"foveal inspect {one_line(model)} IMAGE --data DATA",
            **{"from": FROM},
        )
    )


def _classes(funnel: Funnel) -> Iterator[tuple[str, list[int]]]:
    """The classes with objects, by the number lost."""
    lost = funnel.counts.sum(1) - funnel.counts[:, 0]
    for c in np.argsort(-lost, kind="stable"):
        if funnel.counts[c].sum():
            yield one_line(funnel.classes[c]), funnel.counts[c].tolist()


def _example(lost: LostObject, classes: tuple[str, ...]) -> dict[str, Any]:
    """The object with its surroundings, and the detections near it."""
    box = lost.record.boxes[lost.object].tolist()
    part = cutout(load_image(lost.record.path), box)
    shown = lost.detections.above(FROM)
    for other, label in zip(shown.boxes.tolist(), shown.labels.tolist(), strict=True):
        part.solid(other, color(label))
    part.dashed(box)
    name = "object" if len(classes) == 1 else classes[int(lost.record.labels[lost.object])]
    return {"src": data_uri(part.image, "jpeg"), "label": one_line(name), "image": one_line(lost.record.path.name),
            "text": lost.verdict.text}  # fmt: skip
