"""What every reader does with an image and its objects: probe the file, settle each box, write down what was wrong."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..images.load import ImageError, probe
from ..records.dataset import Record
from ..records.findings import Finding, Findings
from ..records.segmentation import covers, settle_mask

Box = tuple[float, float, float, float]  # xyxy, half-open pixels
EDGE = 1.0 + 1e-6  # a box this far over the edge is rounding, and is clipped without a word


@dataclass
class Object:
    """One object as a reader found it, before its box is settled."""

    box: Box
    label: int
    where: str  # for findings: "object 3 (nut)"
    shown: str  # the box in the file's own words: "xmin 5, ymin 3, xmax 2, ymax 8"
    crowd: bool = False
    difficult: bool = False
    area: float | None = None
    xywh: Box | None = None  # continuous, where the file says so (COCO): kept for scoring, see Record.stated
    mask: Any = None  # what the file says of its mask; :func:`~.segmentation.settle_mask` makes sense of it


def report_refused(folders: Iterable[Path], findings: Findings) -> None:
    """Folders that may not be listed: nobody knows what is missed."""
    for folder in folders:
        message = "the folder may not be listed; whatever is in it is passed over"
        finding = Finding("folder-unreadable", "warning", str(folder), "", message, "Change its permissions")
        if finding not in findings:
            findings.append(finding)


@dataclass
class SizeCache:
    """Upright and stored sizes of images, each file looked at once."""

    cache: dict[Path, tuple[tuple[int, int], tuple[int, int]] | ImageError] = field(default_factory=dict)

    def sizes(self, path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
        """((width, height) upright, the same as stored). Raises :class:`ImageError`."""
        known = self.cache.get(path)
        if known is None:
            try:
                known = probe(path)
            except ImageError as error:
                known = error
            self.cache[path] = known
        if isinstance(known, ImageError):
            raise known
        return known

    def check_size(
        self, path: Path, stated: tuple[float, float] | None, source: Path | str, findings: Findings
    ) -> tuple[int, int] | None:
        """The upright size of an image that may be used, else ``None`` and a finding.

        ``stated`` is what ``source`` says of it; a size of 0 counts as missing.
        """
        try:
            upright, stored = self.sizes(path)
        except ImageError as error:
            message = f"{error.message}; the image is left out"
            findings.add("warning", "image-unreadable", path, "", message, error.fix)
            return None
        if stated is None or stated == upright or 0 in stated:
            return upright
        width, height = upright
        message = f"{source} says {stated[0]:g} x {stated[1]:g}, the file has {width} x {height}; the image is left out"
        fix = "Correct the size, and see whether the boxes belong to this image"
        if stated == stored and stored != upright:
            message += " (the size fits the picture before its EXIF turn: the boxes were drawn on the unturned picture)"
            fix = "Remove the EXIF orientation from the file, or turn the boxes"
        findings.add("warning", "image-size-mismatch", path, "", message, fix)
        return None


def validate_box(box: Box, width: int, height: int) -> tuple[Box | None, str, str]:
    """(box to use or None, code of the finding or "", what is wrong with it)."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return None, "box-not-finite", "is not finite"
    if x2 < x1 or y2 < y1:
        return None, "box-inverted", "ends before it begins (are its corners exchanged?)"
    if x2 == x1 or y2 == y1:
        return None, "box-empty", "has no area"
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return None, "box-outside", f"lies outside the image of {width} x {height}"
    over = max(-x1, -y1, x2 - width, y2 - height)
    if over <= 0:
        return box, "", ""
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if over <= EDGE:
        return clipped, "", ""
    return clipped, "box-over-edge", f"reaches {over:.6g} px over the edge of the image of {width} x {height}"


def build_record(
    id: int | str,
    path: Path,
    size: tuple[int, int],
    objects: Iterable[Object],
    source: Path | None,
    findings: Findings,
    report_as: Path | None = None,
) -> Record:
    """The record of one image: each box validated, exact repeats dropped. ``report_as``: the file findings name."""
    width, height = size
    report_as = report_as or source or path
    kept: list[Object] = []
    boxes: list[Box] = []
    stated: list[tuple[float, ...]] = []
    seen: set[tuple[int, bool, bool, Box]] = set()
    for o in objects:
        box, code, problem = validate_box(o.box, width, height)
        if box is None:
            findings.add(
                "warning", code, report_as, o.where, f"the box {o.shown} {problem}; dropped", "Correct or remove it"
            )
            continue
        if code:
            findings.add("warning", code, report_as, o.where, f"the box {o.shown} {problem}; clipped", "Correct it")
        key = (o.label, o.crowd, o.difficult, box)
        if key in seen:
            message = f"the box {o.shown} is there already, with the same class; the repeat is dropped"
            findings.add("warning", "object-repeated", report_as, o.where, message, "Remove the repeat")
            continue
        seen.add(key)
        if o.xywh is not None:
            stated.append((*o.xywh, o.xywh[2] * o.xywh[3] if o.area is None else o.area))
        if code:  # a stated area is that of the box as it was
            o.area = None
        o.mask, problems = settle_mask(o.mask, width, height)
        for code, problem, fix in problems:
            findings.add("warning", code, report_as, o.where, problem, fix)
        if o.mask is not None and not covers(o.mask, width, height):
            message = "its mask has not one pixel; it teaches its box and class alone"
            findings.add("warning", "mask-empty", report_as, o.where, message, "Draw it again")
        kept.append(o)
        boxes.append(box)
    array = np.array(boxes, np.float64).reshape(-1, 4)
    own = (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])
    area = [b if o.area is None else o.area for o, b in zip(kept, own.tolist(), strict=True)]
    masks = [o.mask for o in kept]
    return Record(
        id=id,
        path=path,
        width=width,
        height=height,
        boxes=array,
        labels=np.array([o.label for o in kept], np.int64),
        crowd=np.array([o.crowd for o in kept], np.bool_),
        difficult=np.array([o.difficult for o in kept], np.bool_),
        ignore=np.zeros(len(kept), np.bool_),
        area=np.array(area, np.float64),
        masks=masks if any(m is not None for m in masks) else None,
        source=source,
        stated=np.array(stated, np.float64) if stated else None,
    )


def number(value: object) -> float | None:
    """A number written as a number or as text; ``None`` for anything else (also ``True`` and ``1_000``)."""
    if isinstance(value, str) and "_" not in value:
        try:
            return float(value)
        except ValueError:
            return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # an integer of hundreds of digits
            return math.inf if value > 0 else -math.inf
    return None


def flag(value: object) -> bool | None:
    """``difficult`` and ``iscrowd`` as people write them; ``None`` where it cannot be understood."""
    if isinstance(value, bool) or value is None:
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in ("", "unspecified", "false", "no"):
        return False
    if isinstance(value, str) and value.strip().lower() in ("true", "yes"):
        return True
    n = number(value)
    return None if n not in (0.0, 1.0) else n == 1.0


def unique_names(
    names: Sequence[str], path: Path, findings: Findings, kind: Literal["class"] = "class"
) -> tuple[list[str], list[int]]:
    """Names without repeats and, for every given one, its place among them; each repeat is a finding."""
    unique: dict[str, int] = {}
    place = []
    for i, name in enumerate(names):
        if name in unique:
            message = f"the {kind} {name!r} is listed more than once; both are taken as one"
            findings.add("warning", "class-repeated", path, f"{kind} {i}", message, "Give every class its own name")
        place.append(unique.setdefault(name, len(unique)))
    return list(unique), place
