"""The inspection page: one traced image as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from ..assembly.two_stage import TwoStage
from ..errors import UsageError
from ..files.aliases import ImageArray
from ..files.pages import LONGEST, data_uri, page_style, reduced, script_json, template_text
from ..files.text import one_line
from ..inference.draw import color
from ..parts.pooling.roi_align import RoIAlign
from .payload import attention_payload, packed, stage_payload
from .traced import TracedImage
from .verdicts import VERDICT_TEXTS, verdicts_of

PACKAGE = "foveal.inspection"
PARTS = {"nms": "nms.js", "views": "inspect.js", "decisions": "decisions.js"}
QUERIES = 100  # whose attention is in the page


def inspection_page(traced: TracedImage, array: ImageArray, name: str, model: str, notes: Sequence[str] = ()) -> str:
    """The page of a traced image as text. ``array`` (H, W, 3): the image; ``name``, ``model``: what to call both;
    ``notes``: sentences for the reader."""
    data = page_data(traced, array, name, model, notes)
    parts = {name: template_text(file, PACKAGE) for name, file in PARTS.items()}
    parts |= {"title": _escaped(f"{one_line(name)} · {one_line(model)}"), "data": script_json(data)}
    parts["css"] = page_style()
    return re.sub(r"/\*(\w+)\*/", lambda mark: parts[mark[1]], template_text("inspect.html", PACKAGE))


def page_data(
    traced: TracedImage, array: ImageArray, name: str, model: str, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """What the page shows, as JSON."""
    notes = list(notes)
    sx, sy, ox, oy = traced.images.frame[0].tolist()
    height, width = array.shape[:2]
    if max(height, width) > LONGEST:
        notes.append(
            f"The image has {width} x {height} pixels; the page holds a copy of {LONGEST} on its longer side. "
            "All numbers are those of the whole image."
        )
    stages = [stage_payload(stage, traced) for stage in traced.stages]
    return {
        "image": one_line(name),
        "model": one_line(model),
        "detector": type(traced.detector.spec).__name__,
        "classes": [one_line(c) for c in traced.classes],
        "colors": [list(color(i)) for i in range(len(traced.classes))],
        "frame": [sx, sy, ox, oy],
        "original": {"w": width, "h": height, "src": data_uri(reduced(Image.fromarray(array)), "jpeg")},
        "network": _network(traced, array),
        "stages": stages,
        "rois": _rois(traced),
        "attention": _attention(traced),
        "objects": None if traced.record is None else _objects(traced),
        "detections": len(traced.detections),
        "notes": [*notes, *_said(traced)],
    }


def _said(traced: TracedImage) -> list[str]:
    """What is unusual about the image, a sentence each."""
    out = []
    if traced.record is None:
        out.append("The objects of this image are not known: give --data with its annotations to see what was lost.")
    elif not len(traced.record):
        out.append("This image has no object: every detection is a false alarm.")
    if not len(traced.detections):
        out.append("There are no detections: no candidate remained.")
    if len(traced.classes) == 1 and not traced.detector.class_agnostic:
        out.append("The detector has a single class.")
    return out


def _network(traced: TracedImage, array: ImageArray) -> dict[str, Any]:
    """The canvas as the network sees it, with its padding."""
    images, rule = traced.images, traced.detector.spec.input
    mean, std = (np.array(v, np.float32) for v in rule.pixels)
    pixels = images.pixels[0].float().permute(1, 2, 0).cpu().numpy() * std + mean
    height, width = images.canvas
    canvas = Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))
    inside = [int(v) for v in images.sizes[0].tolist()]
    return {"w": width, "h": height, "iw": inside[1], "ih": inside[0], "src": data_uri(reduced(canvas), "jpeg"),
            "rule": str(rule).split("(", 1)[0]}  # fmt: skip


def _objects(traced: TracedImage) -> list[dict[str, Any]]:
    """Each object with its verdict; for the page's own matching its box in pixels of the image."""
    assert traced.record is not None
    record, out = traced.record, []
    for g, judged in enumerate(verdicts_of(traced)):
        out.append(
            {
                "box": [float(v) for v in record.boxes[g]],
                "label": 0 if traced.detector.class_agnostic else int(record.labels[g]),
                "counted": judged is not None,
                "verdict": None if judged is None else judged.verdict.value,
                "title": "not counted (crowd, difficult or ignored)"
                if judged is None
                else VERDICT_TEXTS[judged.verdict],
                "text": "a crowd, difficult, or an ignored region" if judged is None else judged.text,
                "stage": None if judged is None else judged.stage,
            }
        )
    return out


def _rois(traced: TracedImage) -> dict[str, Any] | None:
    """How the second stage pools the proposals: kind, bins, samples, and the level of each."""
    pool = traced.detector.spec.pool
    if pool is None or traced.stages[-1].name != "roi":
        return None
    boxes = traced.stages[-1].selection.priors.batched(1)[0].float()
    strides = [float(s) for s in cast(TwoStage, traced.detector).strides]
    out: dict[str, Any] = {"kind": type(pool).__name__, "size": pool.size, "strides": strides, "level": None}
    if isinstance(pool, RoIAlign):
        first, last = pool.levels or (2, 5)
        used = last - first + 1
        out |= {"ratio": pool.ratio, "aligned": pool.aligned}
        if len(strides) > 1 and used > 1:
            out |= {"level": packed(pool.level(boxes), "<u1"), "strides": strides[:used]}
    return out


def _attention(traced: TracedImage) -> dict[str, Any] | None:
    if traced.attention is None:
        return None
    fates = traced.stages[-1].fates
    order = np.argsort(-fates.score, kind="stable")[:QUERIES]
    return attention_payload(traced.attention, [int(fates.prior[i]) for i in order])


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def page_paths(files: Sequence[str], out: Path) -> list[Path]:
    """The file of each image's page: ``out`` itself, where it ends with .html, else in this folder, named after the
    image; images of one name get numbers. Raises :class:`UsageError` for one file and several images."""
    if out.suffix.lower() == ".html":
        if len(files) > 1:
            raise UsageError(f"is one page, for {len(files)} images", path=out, fix="Give a folder")
        return [out]
    if out.exists() and not out.is_dir():
        raise UsageError("is a file, not a folder", path=out, fix="Give a folder for the pages")
    names: dict[str, int] = {}
    paths = []
    for file in files:
        stem = Path(file).stem[:120] or "image"
        names[stem.lower()] = number = names.get(stem.lower(), 0) + 1
        paths.append(out / (f"{stem}.html" if number == 1 else f"{stem}-{number}.html"))
    return paths


def write_inspection(
    traced: TracedImage, array: ImageArray, path: Path, name: str, model: str, notes: Sequence[str] = ()
) -> Path:
    """Writes the page of a traced image to a file, which is complete or absent, and returns its path."""
    from ..files.atomic import write_text

    write_text(path, inspection_page(traced, array, name, model, notes))
    return path
