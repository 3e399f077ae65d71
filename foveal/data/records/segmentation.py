"""What a file says of an object's mask, checked and made into masks: COCO's polygons and run lengths, VOC's images."""

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

FAR = 2.0  # times the picture's side: nobody draws so far outside, and walking such an outline takes memory
SLACK = 1.0 + 1e-6  # pixels over the edge that are rounding, and are cut without a word
PLAIN = 4.0  # pixels: a polygon of this width, height and area is not counted pixel by pixel
Problem = tuple[str, str, str]  # code of the finding, what is wrong and what became of it, what to do


def validate_mask(value: Any, width: int, height: int) -> tuple[Segmentation | None, list[Problem]]:
    """The mask to use, if there is one, and what is wrong with what the file says.

    ``None``, ``[]`` and ``{}`` say that there is no mask, and nothing is wrong with that.
    """
    if value is None or value == [] or value == {}:
        return None, []
    if isinstance(value, IndexedMask):
        problem = _bad_picture(value.image, width, height)
        return (value, []) if problem is None else (None, [problem])
    if isinstance(value, dict):
        problem = _bad_lengths(value, width, height)
        if problem is not None:
            return None, [problem]
        return {"size": value["size"], "counts": value["counts"]}, []
    if not isinstance(value, list) or not any(isinstance(p, list) for p in value):
        message = f"its segmentation is {_show(value)}, expected a list of polygons or run lengths; it has no mask"
        return None, [("mask-invalid", message, "Write [[x1, y1, x2, y2, ...], ...]")]
    good: list[list[float]] = []
    problems: list[Problem] = []
    for n, polygon in enumerate(value):
        found, code, message = _polygon(polygon, width, height)
        if found is not None:
            good.append(found)
        if code:
            what = "cut" if found is not None else "dropped"
            problems.append((code, f"polygon {n} of its mask {message}; {what}", "Correct or remove it"))
    if not good:
        problems.append(("mask-missing", "no polygon of its mask can be used; it has no mask", "Draw it again"))
    return good or None, problems


def covers_pixel(segmentation: Segmentation, width: int, height: int) -> bool:
    """Whether what :func:`validate_mask` let pass has a pixel. A picture of masks is not opened for that: it counts."""
    if isinstance(segmentation, IndexedMask):
        return True
    if isinstance(segmentation, dict):
        return bool(read_lengths(segmentation["counts"])[1::2].any())
    for polygon in segmentation:
        x, y = polygon[::2], polygon[1::2]  # Python's own numbers: there may be a million polygons, of a few each
        left, top, right, bottom = min(x), min(y), max(x), max(y)
        inside = left >= 0 and top >= 0 and right <= width and bottom <= height
        twice = sum(map(mul, x, y[1:] + y[:1])) - sum(map(mul, y, x[1:] + x[:1]))
        if inside and min(right - left, bottom - top, abs(twice) / 2) >= PLAIN:
            return True
    return bool(masks_of([segmentation], width, height).area()[0])


def _polygon(polygon: Any, width: int, height: int) -> tuple[list[float] | None, str, str]:
    """The polygon or None, and code and words for what is wrong with it."""
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
    """What is wrong with run lengths that do not fit the picture, or are none."""
    found = _lengths_problem(value, width, height)
    return None if found is None else (found[0], f"{found[1]}; it has no mask", "Export it again")


@functools.lru_cache(maxsize=256)  # all objects of a picture ask
def _bad_picture(picture: str, width: int, height: int) -> Problem | None:
    """What is wrong with a picture of masks, by its header."""
    try:
        with Image.open(picture) as file:
            size, mode = file.size, file.mode
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return (
            "mask-unreadable",
            f"its mask in {picture} cannot be read ({error}); it has no mask",
            "Replace the picture",
        )
    if size == (width, height) and mode in ("P", "L"):
        return None
    what = f"is {size[0]} x {size[1]} of mode {mode}, expected {width} x {height}, one number a pixel"
    return "mask-size-mismatch", f"the picture of its mask, {picture}, {what}; it has no mask", "Replace the picture"


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
        least = f", one of them {int(lengths.min())}" if (lengths < 0).any() else ""
        found = f"its run lengths sum to {total}{least}"
        return "mask-invalid", f"{found}, expected {height} x {width} = {width * height}"
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
    """One mask an object, empty where it has none; what :func:`validate_mask` let pass."""
    size = height, width
    found = rasterize([s if isinstance(s, list) else [] for s in segmentations], size)
    for kind, read in ((dict, _of_lengths), (IndexedMask, _of_picture)):
        rows = [k for k, s in enumerate(segmentations) if isinstance(s, kind)]
        if rows:
            more = read([segmentations[k] for k in rows], size)
            owner = np.concatenate([found.owner, np.array(rows, np.int64)[more.owner]])
            x, top, bottom = (np.concatenate([getattr(found, n), getattr(more, n)]) for n in ("x", "top", "bottom"))
            found = Masks.of_runs(size, len(segmentations), owner, x, top, bottom)
    return found


def _of_lengths(segmentations: Sequence[Any], size: tuple[int, int]) -> Masks:
    return Masks.of_counts([read_lengths(s["counts"]) for s in segmentations], size)


def _of_picture(segmentations: Sequence[Any], size: tuple[int, int]) -> Masks:
    """Masks of one picture. Raises :class:`FovealError` where it cannot be read any more."""
    picture = segmentations[0].image
    try:
        with Image.open(picture) as file:
            values = np.asarray(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise FovealError(f"the picture of masks cannot be read ({error})", path=picture) from None
    if values.shape != size:
        raise FovealError(f"the picture of masks is not {size[1]} x {size[0]} any more", path=picture)
    return Masks.of_dense(values == np.array([s.index for s in segmentations])[:, None, None])


def coded(record: Record) -> list[list[list[float]] | dict[str, Any] | None]:
    """The masks of a record as COCO has them."""
    own = record.masks or [None] * len(record)
    if not any(isinstance(m, IndexedMask) for m in own):
        return [None if isinstance(m, IndexedMask) else m for m in own]
    lengths = masks_of(own, record.width, record.height).to_coco()
    return [text if isinstance(m, IndexedMask) else m for m, text in zip(own, lengths, strict=True)]


def to_json(segmentation: Segmentation | None) -> Any:
    """As a JSON value; :func:`from_json` is the inverse."""
    return [segmentation.image, segmentation.index] if isinstance(segmentation, IndexedMask) else segmentation


def from_json(value: Any) -> Segmentation | None:
    """From what :func:`to_json` made."""
    picture = isinstance(value, list) and isinstance(value[0], str)
    return IndexedMask(*value) if picture else value


def check_masks(dataset: Dataset) -> str:
    """What to say of objects that have no mask, for a detector that learns masks; "" where all have one.

    Raises :class:`~foveal.errors.FovealError` where not one has: boxes are never taken for masks.
    """
    counted = [~(r.ignore | r.crowd) for r in dataset.records]
    flags = [
        [m is not None for m, c in zip(r.masks or [None] * len(r), learn.tolist(), strict=True) if c]
        for r, learn in zip(dataset.records, counted, strict=True)
    ]
    have, every = sum(chain.from_iterable(flags)), sum(map(len, flags))
    name = f"the split {dataset.split!r}" if dataset.split else "the data set"
    if every and not have:
        raise FovealError(
            f"{name} has {every} boxes and not one mask, and the detector learns masks (a box is not taken for one)",
            path=dataset.path,
            fix='Give COCO JSON with a "segmentation" for each object, or a VOC folder with SegmentationObject; '
            "boxes alone are enough for a Faster R-CNN",
        )
    if have == every:
        return ""
    return f"warning: {every - have} of {every} objects of {name} have no mask; they teach boxes and classes alone"


def _show(value: object) -> str:
    """A value for a message: short, on one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
