"""The pictures of a data report: what findings are about, and what the objects of each class look like.

Each image is decoded once. All pictures are small copies, whatever the size of the photo.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from ...files.cutouts import RGB, Cutout, cutout, whole
from ...files.pages import data_uri
from ...files.text import one_line
from ..images.load import ImageError, load_image
from ..records.dataset import Dataset, Record
from ..records.findings import Finding

T = TypeVar("T")
OF_A_FINDING, OF_A_CLASS = 8, 5  # pictures at most
CLASSES = 40  # the most frequent ones get pictures
SIDE, SMALL = 260, 150  # pixels of the longer side
LEAST = 6  # pixels of a cutout: a smaller side of a box is not seen
RED, GREEN, AMBER, WHITE = (255, 90, 77), (57, 217, 138), (255, 209, 102), (255, 255, 255)


@dataclass
class Picture:
    """One picture of a page and the words below it. ``src`` is empty where the image cannot be read."""

    title: str
    text: str = ""
    src: str = ""


@dataclass
class Pictures:
    """Pictures to draw: first they are asked for, then :meth:`draw` opens each image once."""

    _asked: dict[str, list[tuple[Picture, Callable[[np.ndarray[Any, Any]], Cutout]]]] = field(default_factory=dict)

    def add(self, path: str | Path, title: str, text: str, look: Callable[[np.ndarray[Any, Any]], Cutout]) -> Picture:
        """A picture that ``look`` will make of the pixels of an image."""
        picture = Picture(one_line(title), one_line(text))
        self._asked.setdefault(str(path), []).append((picture, look))
        return picture

    def draw(self) -> None:
        """Fills in the pictures. An image that cannot be read is said in words."""

        def one(path: str) -> None:
            try:
                pixels = load_image(path)
            except ImageError:
                for picture, _ in self._asked[path]:
                    picture.text += " (the image cannot be read)"
                return
            for picture, look in self._asked[path]:
                picture.src = data_uri(look(pixels).image.convert("RGB"), "jpeg", 80)

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(one, self._asked))
        self._asked.clear()


def boxed(box: Sequence[float], color: RGB | None = None, side: int = SIDE) -> Callable[..., Cutout]:
    """A look at a box, xyxy pixels: dashed in white, or in a color."""

    def look(pixels: np.ndarray[Any, Any]) -> Cutout:
        part = cutout(pixels, box, side)
        if min(abs(box[2] - box[0]), abs(box[3] - box[1])) * part.scale < LEAST:
            part.ringed(box, color or WHITE)
        else:
            part.dashed(box, color or WHITE)
        return part

    return look


def entire(boxes: Iterable[Sequence[float]] = (), side: int = SIDE) -> Callable[..., Cutout]:
    """A look at a whole image with boxes."""

    def look(pixels: np.ndarray[Any, Any]) -> Cutout:
        part = whole(pixels, side)
        for box in boxes:
            part.dashed(box)
        return part

    return look


def _beside(other: str, side: int = SIDE) -> Callable[..., Cutout]:
    """A look at an image, left, and at another one, right."""

    def look(pixels: np.ndarray[Any, Any]) -> Cutout:
        left = whole(pixels, side)
        try:
            right = whole(load_image(other), side).image
        except ImageError:
            return left
        both = Image.new("RGB", (left.image.width + right.width + 6, max(left.image.height, right.height)), WHITE)
        both.paste(left.image, (0, 0))
        both.paste(right, (left.image.width + 6, 0))
        return Cutout(both, 0, 0, left.scale)

    return look


def finding_pictures(
    findings: Sequence[Finding], parts: Mapping[str, Dataset], pictures: Pictures
) -> dict[tuple[str, str], list[Picture]]:
    """Pictures by (severity, code): the boxes that findings are about, and the images of other findings."""
    records = {str(r.path): r for part in parts.values() for r in part.records}
    sources: dict[str, list[Record]] = {}
    for record in records.values():
        sources.setdefault(str(record.source), []).append(record)
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.code), []).append(finding)
    out = {}
    for kind, same in kinds.items():
        shown: list[Picture] = []
        for finding in spread(same, 4 * OF_A_FINDING):
            if len(shown) < OF_A_FINDING:
                shown += _of(finding, records, sources, pictures)[: OF_A_FINDING - len(shown)]
        out[kind] = shown
    return out


def _of(
    finding: Finding, records: Mapping[str, Record], sources: Mapping[str, list[Record]], pictures: Pictures
) -> list[Picture]:
    """The pictures of one finding; none where it is about no image of the set."""
    images = list(finding.images)
    if not images:
        here = sources.get(finding.path, [])
        if finding.path in records:
            images = [finding.path]
        elif len(here) == 1:  # an annotation file of one image
            images = [str(here[0].path)]
    if not images:
        return []
    name = Path(images[0]).name
    if finding.box is not None and np.isfinite(finding.box).all() and np.abs(finding.box).max() < 1e7:
        return [pictures.add(images[0], name, finding.where, boxed(finding.box, RED))]
    if len(images) == 2 and "duplicate" in finding.code:
        return [pictures.add(images[0], name, f"and {Path(images[1]).name}", _beside(images[1], SIDE // 2))]
    return [
        pictures.add(path, Path(path).name, finding.where, entire(records[path].boxes if path in records else ()))
        for path in images
    ]


def class_pictures(
    classes: Sequence[str], records: Sequence[Record], pictures: Pictures
) -> list[tuple[str, list[Picture]]]:
    """Objects of each class, from the smallest to the largest; of the most frequent classes."""
    if not records or not classes:
        return []
    sizes = [len(r) for r in records]
    image = np.repeat(np.arange(len(records)), sizes)
    place = np.concatenate([np.arange(n) for n in sizes])
    labels, boxes = np.concatenate([r.labels for r in records]), np.concatenate([r.boxes for r in records])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    counts = np.bincount(labels, minlength=len(classes))
    out = []
    for c in np.argsort(-counts, kind="stable")[:CLASSES]:
        rows = np.flatnonzero(labels == c)
        if not len(rows):
            break
        rows = rows[np.argsort(area[rows], kind="stable")]
        shown = []
        for row in spread(rows.tolist(), OF_A_CLASS):
            record, box = records[image[row]], boxes[row].tolist()
            size = f"{box[2] - box[0]:.0f} x {box[3] - box[1]:.0f} px, object {place[row] + 1}"
            shown.append(pictures.add(record.path, record.path.name, size, boxed(box, side=SMALL)))
        out.append((classes[c], shown))
    return out


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most this many of the items, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[k] for k in np.linspace(0, len(items) - 1, most).round().astype(int)]
