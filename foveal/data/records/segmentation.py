"""Validates and decodes the segmentations of annotation files: COCO's polygons and run lengths, VOC's mask images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import chain
from operator import mul
from typing import Any

import numpy as np
from PIL import Image

from ...errors import FovealError
from ...masks.polygons import rasterize
from ...masks.rle import Masks, unsqueeze
from .dataset import Dataset, IndexedMask, Record, Segmentation

FAR = 2.0  # times the image's side: farther outside is an error, and rasterizing such an outline takes memory
SLACK = 1.0 + 1e-6  # pixels over the edge that are rounding errors, cut without a finding
PLAIN = 4.0  # pixels: a polygon of this width, height and area certainly covers a pixel
Problem = tuple[str, str, str]  # code, message and fix of a finding


def validate_mask(value: Any, width: int, height: int) -> tuple[Segmentation | None, list[Problem]]:
    """The segmentation to use, ``None`` if there is none, and the problems of the one in the file.

    ``None``, ``[]`` and ``{}`` mean that there is no mask, which is valid.
    """
    if value is None or value == [] or value == {}:
        return None, []
    if isinstance(value, IndexedMask):
        problem = _bad_image(value.image, width, height)
        return (value, []) if problem is None else (None, [problem])
    if isinstance(value, dict):
        problem = _bad_lengths(value, width, height)
        if problem is not None:
            return None, [problem]
        return {"size": value["size"], "counts": value["counts"]}, []
    if not isinstance(value, list) or not any(isinstance(p, list) for p in value):
        message = (
            f"its segmentation is {_show(value)}, expected a list of polygons or run lengths; the object has no mask"
        )
        return None, [("mask-invalid", message, "Write [[x1, y1, x2, y2, ...], ...]")]
    good: list[list[float]] = []
    problems: list[Problem] = []
    for n, polygon in enumerate(value):
        usable, code, message = _polygon(polygon, width, height)
        if usable is not None:
            good.append(usable)
        if code:
            what = "clipped" if usable is not None else "dropped"
            problems.append((code, f"polygon {n} of its mask {message}; {what}", "Correct or remove it"))
    if not good:
        problems.append(("mask-missing", "no polygon of its mask is valid; the object has no mask", "Draw it again"))
    return good or None, problems


def covers_pixel(segmentation: Segmentation, width: int, height: int) -> bool:
    """Whether a valid segmentation covers a pixel. A mask image is not opened for that and counts as covering one."""
    if isinstance(segmentation, IndexedMask):
        return True
    if isinstance(segmentation, dict):
        return bool(read_lengths(segmentation["counts"])[1::2].any())
    for polygon in segmentation:
        x, y = (
            polygon[::2],
            polygon[1::2],
        )  # Python numbers: faster for a million polygons of few corners
        left, top, right, bottom = min(x), min(y), max(x), max(y)
        inside = left >= 0 and top >= 0 and right <= width and bottom <= height
        twice = sum(map(mul, x, y[1:] + y[:1])) - sum(map(mul, y, x[1:] + x[:1]))
        if inside and min(right - left, bottom - top, abs(twice) / 2) >= PLAIN:
            return True
    return bool(masks_of([segmentation], width, height).area()[0])


def _polygon(polygon: Any, width: int, height: int) -> tuple[list[float] | None, str, str]:
    """The polygon or None, and code and message of its problem."""
    if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
        return None, "polygon-invalid", f"is {_show(polygon)}, expected a list of numbers"
    if len(polygon) < 6 or len(polygon) % 2:
        return None, "polygon-invalid", f"has {len(polygon)} numbers, expected x and y of at least three corners"
    try:
        corners = np.asarray(polygon, np.float64).reshape(-1, 2)
    except OverflowError:  # a whole number of hundreds of digits
        return None, "polygon-invalid", "has a number that is too large"
    if not np.isfinite(corners).all():
        return None, "polygon-invalid", "has a number that is not finite"
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    size = f"the image of {width} x {height}"
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return None, "mask-outside", f"lies outside {size}"
    over = max(-left, -top, right - width, bottom - height)
    if max(-left, right - width) > FAR * width or max(-top, bottom - height) > FAR * height:
        return None, "mask-outside", f"reaches {over:.6g} px over the edge of {size}"
    if over > SLACK:
        return polygon, "mask-over-edge", f"reaches {over:.6g} px over the edge of {size}"
    return polygon, "", ""


def _bad_lengths(value: dict[str, Any], width: int, height: int) -> Problem | None:
    """The problem of run lengths that are invalid or do not fit the image."""
    problem = _lengths_problem(value, width, height)
    return None if problem is None else (problem[0], f"{problem[1]}; the object has no mask", "Export it again")


@functools.lru_cache(maxsize=256)  # called for every object of an image
def _bad_image(image: str, width: int, height: int) -> Problem | None:
    """The problem of a mask image, by its header."""
    try:
        with Image.open(image) as file:
            size, mode = file.size, file.mode
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return (
            "mask-unreadable",
            f"its mask in {image} cannot be read ({error}); the object has no mask",
            "Replace the image",
        )
    if size == (width, height) and mode in ("P", "L"):
        return None
    what = f"is {size[0]} x {size[1]} of mode {mode}, expected {width} x {height}, one number a pixel"
    return "mask-size-mismatch", f"the image of its mask, {image}, {what}; the object has no mask", "Replace the image"


def _lengths_problem(value: dict[str, Any], width: int, height: int) -> tuple[str, str] | None:
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not set(map(type, size)) <= {int, float}:
        return "mask-invalid", f"its run lengths have the size {_show(size)}, expected [height, width]"
    if list(map(float, size)) != [height, width]:
        return "mask-size-mismatch", f"its mask is {size[1]} x {size[0]}, the image {width} x {height}"
    try:
        lengths = read_lengths(counts)
    except ValueError:
        return "mask-invalid", f"its run lengths {_show(counts)} cannot be read"
    total = int(lengths.sum())
    if (lengths < 0).any() or total != width * height:
        negative = f", one of them is {int(lengths.min())}" if (lengths < 0).any() else ""
        what = f"its run lengths sum to {total}{negative}"
        return "mask-invalid", f"{what}, expected {height} x {width} = {width * height}"
    return None


def read_lengths(counts: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Run lengths from COCO's text or a list of whole numbers. Raises ``ValueError``."""
    if isinstance(counts, str):
        return unsqueeze(counts)
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        raise ValueError("run lengths are text or a list of whole numbers")
    try:
        return np.asarray(counts, np.int64)
    except OverflowError:
        raise ValueError("a run length is too large") from None


def masks_of(segmentations: Sequence[Segmentation | None], width: int, height: int) -> Masks:
    """The masks of the objects of an image, empty where an object has none, from valid segmentations."""
    size = height, width
    masks = rasterize([s if isinstance(s, list) else [] for s in segmentations], size)
    for kind, read in ((dict, _of_lengths), (IndexedMask, _of_images)):
        rows = [k for k, s in enumerate(segmentations) if isinstance(s, kind)]
        if rows:
            more = read([segmentations[k] for k in rows], size)
            owner = np.concatenate([masks.owner, np.array(rows, np.int64)[more.owner]])
            x, top, bottom = (np.concatenate([getattr(masks, n), getattr(more, n)]) for n in ("x", "top", "bottom"))
            masks = Masks.of_runs(size, len(segmentations), owner, x, top, bottom)
    return masks


def _of_lengths(segmentations: Sequence[Any], size: tuple[int, int]) -> Masks:
    return Masks.of_counts([read_lengths(s["counts"]) for s in segmentations], size)


def _of_images(segmentations: Sequence[Any], size: tuple[int, int]) -> Masks:
    """The masks of one mask image. Raises :class:`FovealError` where it can no longer be read."""
    image = segmentations[0].image
    try:
        with Image.open(image) as file:
            values = np.asarray(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise FovealError(f"the mask image cannot be read ({error})", path=image) from None
    if values.shape != size:
        raise FovealError(f"the mask image is no longer {size[1]} x {size[0]}", path=image)
    return Masks.of_dense(values == np.array([s.index for s in segmentations])[:, None, None])


def coco_segmentations(record: Record) -> list[list[list[float]] | dict[str, Any] | None]:
    """The masks of a record as COCO's polygons or run lengths."""
    masks = record.masks or [None] * len(record)
    if not any(isinstance(m, IndexedMask) for m in masks):
        return [None if isinstance(m, IndexedMask) else m for m in masks]
    lengths = masks_of(masks, record.width, record.height).to_coco()
    return [text if isinstance(m, IndexedMask) else m for m, text in zip(masks, lengths, strict=True)]


def to_json(segmentation: Segmentation | None) -> Any:
    """As a JSON value; :func:`from_json` is the inverse."""
    return [segmentation.image, segmentation.index] if isinstance(segmentation, IndexedMask) else segmentation


def from_json(value: Any) -> Segmentation | None:
    """The inverse of :func:`to_json`."""
    indexed = isinstance(value, list) and isinstance(value[0], str)
    return IndexedMask(*value) if indexed else value


def check_masks(dataset: Dataset) -> str:
    """A warning about objects without a mask, for a detector that learns masks; "" where all have one.

    Raises :class:`~foveal.errors.FovealError` if none has a mask: boxes are never used as masks.
    """
    counted = [~(r.ignore | r.crowd) for r in dataset.records]
    flags = [
        [m is not None for m, c in zip(r.masks or [None] * len(r), learn.tolist(), strict=True) if c]
        for r, learn in zip(dataset.records, counted, strict=True)
    ]
    have, every = sum(chain.from_iterable(flags)), sum(map(len, flags))
    name = f"the split {dataset.split!r}" if dataset.split else "the dataset"
    if every and not have:
        raise FovealError(
            f"{name} has {every} boxes and no mask, but the detector learns masks (a box is not used as one)",
            path=dataset.path,
            fix='Give COCO JSON with a "segmentation" for each object, or a VOC folder with SegmentationObject; '
            "or use a Faster R-CNN, which needs boxes only",
        )
    if have == every:
        return ""
    return f"warning: {every - have} of {every} objects of {name} have no mask; only their boxes and classes are used"


def _show(value: object) -> str:
    """A value for a message: at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
