"""Validation shared by all dataset readers: image sizes, boxes, masks, numbers, flags and class names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..images.load import ImageError, probe
from ..records.dataset import DroppedObject, Record
from ..records.findings import Finding, Findings, Severity
from ..records.segmentation import covers_pixel, validate_mask

Box = tuple[float, float, float, float]  # xyxy, half-open pixels
EDGE = 1.0 + 1e-6  # pixels; a box that crosses the edge by this much is a rounding error, clipped without a finding


@dataclass
class ParsedObject:
    """One object as a reader parsed it, before its box and mask are validated."""

    box: Box
    label: int
    where: str  # for findings: "object 3 (nut)"
    shown: str  # the box as the file has it: "xmin 5, ymin 3, xmax 2, ymax 8"
    crowd: bool = False
    difficult: bool = False
    area: float | None = None
    xywh: Box | None = None  # continuous, as stated in the file (COCO), see Record.stated
    mask: Any = None  # as stated in the file, see :func:`~.segmentation.validate_mask`
    from_mask: bool = False  # the file states no box; it is the one around the mask
    numbers: Box | None = None  # the four numbers of the box as written
    around: bool = False  # the numbers are the corners around a polygon, whatever the layout of boxes is
    repeat: bool = False  # of an annotation that is listed twice, which has been told

    def stated(self) -> tuple[float, ...] | None:
        """x, y, width, height, area as stated in the file; the area of the box where none is stated."""
        if self.xywh is None:
            return None
        return (*self.xywh, self.xywh[2] * self.xywh[3] if self.area is None else self.area)

    def dropped(self, size: tuple[int, int]) -> DroppedObject | None:
        """As an object whose box cannot be used; ``None`` where its numbers are not finite."""
        x1, y1, x2, y2 = self.box
        x, y, w, h = self.xywh or (x1, y1, x2 - x1, y2 - y1)
        numbers = (x, y, w, h, w * h if self.area is None else self.area)
        if not all(map(math.isfinite, numbers)):
            return None
        mask, _ = validate_mask(self.mask, *size)
        return DroppedObject(self.label, numbers, self.crowd, self.difficult, mask)


@dataclass
class Tally:
    """What is true of many objects, files or lines: told once, with their number and the first place."""

    _facts: dict[str, tuple[list[int], Finding, str]] = field(default_factory=dict)

    def add(
        self, severity: Severity, code: str, path: Path | str, where: str, what: str, message: str, fix: str = ""
    ) -> None:
        """Counts one. ``{n}`` in the ``message`` of the first becomes the number of ``what`` ("object", "line")."""
        counter = self._facts.get(code)
        if counter is None:
            counter = self._facts[code] = [0], Finding(code, severity, str(path), where, message, fix), what
        counter[0][0] += 1

    def report(self, findings: Findings) -> None:
        """Adds a finding for each code, and forgets them."""
        for (n,), finding, what in self._facts.values():
            number = f"{n} {what}" if n == 1 else f"{n} {what}{'es' if what.endswith('x') else 's'}"
            findings.append(replace(finding, message=finding.message.replace("{n}", number)))
        self._facts.clear()


def report_refused(folders: Iterable[Path], findings: Findings) -> None:
    """A finding for each folder that may not be listed: its images may be missed."""
    for folder in folders:
        message = "the folder cannot be listed (permission denied); its contents are skipped"
        finding = Finding("folder-unreadable", "warning", str(folder), "", message, "Change its permissions")
        if finding not in findings:
            findings.append(finding)


@dataclass
class SizeCache:
    """Upright and stored sizes of images; each file is opened once."""

    cache: dict[Path, tuple[tuple[int, int], tuple[int, int]] | ImageError] = field(default_factory=dict)

    def sizes(self, path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
        """((width, height) upright, (width, height) as stored). Raises :class:`ImageError`."""
        cached = self.cache.get(path)
        if cached is None:
            try:
                cached = probe(path)
            except ImageError as error:
                cached = error
            self.cache[path] = cached
        if isinstance(cached, ImageError):
            raise cached
        return cached

    def check_size(
        self, path: Path, stated: tuple[float, float] | None, source: Path | str, findings: Findings
    ) -> tuple[int, int] | None:
        """(width, height) of the upright image, or ``None`` and a finding where the image cannot be used.

        ``stated`` is the size in the annotation file ``source``; a size of 0 counts as missing.
        """
        try:
            upright, stored = self.sizes(path)
        except ImageError as error:
            message = f"{error.message}; the image is skipped"
            findings.add("warning", "image-unreadable", path, "", message, error.fix)
            return None
        if stated is None or stated == upright or 0 in stated:
            return upright
        width, height = upright
        size = f"{stated[0]:g} x {stated[1]:g}"
        message = f"{source} states a size of {size}, the image is {width} x {height}; the image is skipped"
        fix = "Correct the size, and check that the boxes belong to this image"
        if stated == stored and stored != upright:
            message += " (the stated size ignores the EXIF orientation, so the boxes were drawn on the unrotated image)"
            fix = "Remove the EXIF orientation from the image or rotate the boxes"
        findings.add("warning", "image-size-mismatch", path, "", message, fix)
        return None


def validate_box(box: Box, width: int, height: int) -> tuple[Box | None, str, str]:
    """(box to use or ``None``, code of the finding or "", problem); a box over the image's edge is clipped."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return None, "box-not-finite", "is not finite"
    if x2 < x1 or y2 < y1:
        return None, "box-inverted", "has its maximum before its minimum (are the corners swapped?)"
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
    objects: Iterable[ParsedObject],
    source: Path | None,
    findings: Findings,
) -> Record:
    """The record of one image, with validated boxes and masks and without repeated objects.

    ``size`` is (width, height); problems are reported for the annotation file ``source``, or ``path``.
    """
    width, height = size
    used: list[ParsedObject] = []
    boxes: list[Box] = []
    stated: list[tuple[float, ...]] = []
    seen: set[tuple[int, bool, bool, Box]] = set()
    dropped: list[DroppedObject | None] = []
    for o in objects:
        numbers = o.stated()
        box = None if o.repeat else _check_box(o, size, seen, source or path, path, findings)
        if box is None:
            dropped.append(o.dropped(size))
            continue
        if numbers is not None:
            stated.append(numbers)
        _check_mask(o, size, source or path, findings)
        used.append(o)
        boxes.append(box)
    array = np.array(boxes, np.float64).reshape(-1, 4)
    box_areas = (array[:, 2] - array[:, 0]) * (array[:, 3] - array[:, 1])
    areas = [b if o.area is None else o.area for o, b in zip(used, box_areas.tolist(), strict=True)]
    masks = [o.mask for o in used]
    return Record(
        id=id,
        path=path,
        width=width,
        height=height,
        boxes=array,
        labels=np.array([o.label for o in used], np.int64),
        crowd=np.array([o.crowd for o in used], np.bool_),
        difficult=np.array([o.difficult for o in used], np.bool_),
        ignore=np.zeros(len(used), np.bool_),
        area=np.array(areas, np.float64),
        masks=masks if any(m is not None for m in masks) else None,
        source=source,
        stated=np.array(stated, np.float64) if stated else None,
        dropped=tuple(o for o in dropped if o is not None),
    )


def _check_box(
    o: ParsedObject,
    size: tuple[int, int],
    seen: set[tuple[int, bool, bool, Box]],
    file: Path,
    image: Path,
    findings: Findings,
) -> Box | None:
    """The box to use; ``None`` for an invalid box and for the repeat of one in ``seen``.

    The stated area of a clipped object is dropped, for it is that of the whole object.
    """
    box, code, problem = validate_box(o.box, *size)
    if code:
        end, fix = ("clipped", "Correct it") if box is not None else ("dropped", "Correct or remove it")
        message = f"the box {o.shown} {problem}; {end}"
        findings.add("warning", code, file, o.where, message, fix, [image], o.box)
    if box is None:
        return None
    key = (o.label, o.crowd, o.difficult, box)
    if key in seen:
        message = f"the box {o.shown} occurs twice with the same class; the repeat is dropped"
        findings.add("warning", "object-repeated", file, o.where, message, "Remove the repeat", [image], o.box)
        return None
    seen.add(key)
    if code:
        o.area = None
    return box


def _check_mask(o: ParsedObject, size: tuple[int, int], file: Path, findings: Findings) -> None:
    """Replaces the mask of an object by the part of it that can be used."""
    o.mask, problems = validate_mask(o.mask, *size)
    for code, problem, fix in problems:
        findings.add("warning", code, file, o.where, problem, fix)
    if o.mask is not None and not covers_pixel(o.mask, *size):
        message = "its mask covers no pixel; only its box and class are used in training"
        findings.add("warning", "mask-empty", file, o.where, message, "Draw it again")


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


def valid_size(width: object, height: object) -> tuple[float, float] | None:
    """A stated size as numbers; ``None`` where it is none. A side of 0 counts as missing, and is valid."""
    w, h = number(width), number(height)
    return None if w is None or h is None or not (0 <= w < 1e9 and 0 <= h < 1e9) else (w, h)


def flag(value: object) -> bool | None:
    """``difficult`` or ``iscrowd`` in any common notation; ``None`` for anything else."""
    if isinstance(value, bool) or value is None:
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in ("", "unspecified", "false", "no"):
        return False
    if isinstance(value, str) and value.strip().lower() in ("true", "yes"):
        return True
    n = number(value)
    return None if n not in (0.0, 1.0) else n == 1.0


def unique_names(names: Sequence[str], path: Path, findings: Findings) -> tuple[list[str], list[int]]:
    """Class names without repeats, and for each given name its index among them; each repeat is a finding."""
    unique: dict[str, int] = {}
    labels = []
    for i, name in enumerate(names):
        if name in unique:
            message = f"the class {name!r} is listed more than once; its entries are merged"
            findings.add("warning", "class-repeated", path, f"class {i}", message, "Give every class a unique name")
        labels.append(unique.setdefault(name, len(unique)))
    return list(unique), labels
