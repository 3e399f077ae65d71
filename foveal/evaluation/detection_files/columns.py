"""Reads files of detections into columns: COCO results, `predict --json`, JSON lines, CSV.

Images and classes stay as the file names them; :mod:`.lookup` finds them in a dataset.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import FovealError
from ...files.outputs import output_kind
from .csv_records import read_csv

NUMBER = {int, float}
# What tools call the same thing, the most specific first
IMAGE = ("image_id", "image", "file_name", "filename", "image_name", "img", "path")
CLASS = ("category_id", "label", "category", "class", "category_name", "class_name", "name")
SCORE = ("score", "confidence", "conf")
BOX = ("bbox", "box")  # x, y, width, height; x1, y1, x2, y2
MASK = ("segmentation", "mask")
SEVERAL = ("detections", "instances", "predictions")  # the detections of one image, in a record of it
LISTS = ("annotations", *SEVERAL, "results")  # the detections of all images, in an object
EXPECTED = (
    'Write COCO results as [{"image_id", "category_id", "bbox": [x, y, width, height], "score"}, ...], or give what '
    "`foveal predict --json` writes"
)


@dataclass
class FileDetections:
    """N detections as a file has them."""

    images: list[Any]  # (N,) an id or a name
    classes: list[Any]  # (N,) an id or a name
    boxes: list[list[float] | None]  # (N, 4) x, y, width, height; None: the box around the mask
    scores: list[float]
    masks: list[Any]  # (N,) None where there is none
    places: Sequence[str]  # where each one is in the file
    seen: list[Any] = field(default_factory=list)  # all images that the file names, those without detections included
    sizes: Mapping[Any, tuple[int, int]] = field(default_factory=dict)  # width, height, where the file states them
    named: bool = False  # a class is always a name: `predict --json`
    ids: list[Any] | None = None  # (N,) of the images, where ``images`` are the names that the file has for them

    def __len__(self) -> int:
        return len(self.images)


class Numbered(Sequence[str]):
    """``record 0``, ``record 1``, ..., made when asked for."""

    def __init__(self, total: int) -> None:
        self.total = total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.total:
            raise IndexError(index)
        return f"record {index}"


def read_columns(path: Path) -> FileDetections:
    """Raises :class:`FovealError` with file and place for anything that is no detection."""
    if (what := output_kind(path)) and "detections" not in what:
        raise FovealError(f"{what}, not detections", path=path, fix=EXPECTED)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (ValueError, OSError) as e:
        raise FovealError(f"cannot be read as JSON ({e})", path=path) from e
    if path.suffix.lower() in (".csv", ".tsv"):
        return _of_records(path, *read_csv(path, text), {})
    try:
        data = json.loads(text)
    except json.JSONDecodeError as e:
        lines = _json_lines(text)
        if lines is None:
            raise FovealError(f"not JSON: {e.msg}", path=path, where=f"line {e.lineno}, column {e.colno}") from e
        return _of_records(path, *lines, {})
    except (ValueError, RecursionError) as e:
        raise FovealError(f"cannot be read as JSON ({e})", path=path) from e
    records = data
    if isinstance(data, dict):
        own = [data] if any(key in data for key in IMAGE) else None  # one image of `predict --json`
        records = own or next((data[key] for key in LISTS if isinstance(data.get(key), list)), data)
    if not isinstance(records, list):
        raise FovealError(f"expected a list of detections, got {type(data).__name__}", path=path, fix=EXPECTED)
    return _of_records(path, records, Numbered(len(records)), data if isinstance(data, dict) else {})


def _json_lines(text: str) -> tuple[list[Any], list[str]] | None:
    """The objects of a file with one a line, and their places; None: it is something else."""
    rows = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    try:
        values = [json.loads(line) for _, line in rows]
    except (ValueError, RecursionError):
        return None
    return (values, [f"line {i}" for i, _ in rows]) if values and all(isinstance(v, dict) for v in values) else None


def _of_records(path: Path, records: list[Any], places: Sequence[str], document: Mapping[str, Any]) -> FileDetections:
    nested = any(isinstance(r, dict) and any(isinstance(r.get(key), list) for key in SEVERAL) for r in records)
    sizes: dict[Any, tuple[int, int]] = {}
    seen: list[Any] = []
    if nested:
        records, places = _flattened(path, records, places, seen, sizes)
    try:
        columns = _plain(records, places)
    except (TypeError, KeyError, ValueError, OverflowError):
        columns = _checked(path, records, places)
    columns.seen, columns.sizes = seen or columns.images, sizes
    columns.named = nested and all("category_id" not in r for r in records)
    _own_names(columns, document)
    return columns


def _flattened(
    path: Path, records: list[Any], places: Sequence[str], seen: list[Any], sizes: dict[Any, tuple[int, int]]
) -> tuple[list[Any], list[str]]:
    """A record for each detection, from a record for each image; its image and size go to ``seen`` and ``sizes``."""
    flat: list[Any] = []
    where: list[str] = []
    for record, place in zip(records, places, strict=True):
        key = next((k for k in IMAGE if isinstance(record, dict) and k in record), None)
        inside = None if key is None else next((record[k] for k in SEVERAL if isinstance(record.get(k), list)), None)
        if key is None or inside is None:
            raise FovealError(
                f"expected an image with its detections, got {record!r:.80}", path=path, where=place, fix=EXPECTED
            )
        image = record[key]
        if type(image) not in {int, float, str}:
            raise FovealError(f"{key} is {image!r:.80}", path=path, where=place, fix="Give it an id")
        seen.append(image)
        width, height = record.get("width"), record.get("height")
        if isinstance(width, int) and isinstance(height, int):
            sizes[image] = (width, height)
        for k, detection in enumerate(inside):
            place_of = f"{place}, detection {k}"
            if not isinstance(detection, dict):
                raise FovealError(f"expected an object, got {detection!r:.80}", path=path, where=place_of)
            flat.append({**detection, "image_id": image})
            where.append(place_of)
    return flat, where


def _plain(records: list[Any], places: Sequence[str]) -> FileDetections:
    """COCO results, fast. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
    images, classes, boxes, scores = ([r[key] for r in records] for key in ("image_id", "category_id", "bbox", "score"))
    kinds = set(map(type, chain(chain.from_iterable(boxes), scores)))
    if (
        not kinds <= NUMBER
        or not set(map(type, images)) | set(map(type, classes)) <= {int, float, str}
        or not (set(map(type, boxes)) <= {list} and set(map(len, boxes)) <= {4})
        or not all(map(math.isfinite, chain(chain.from_iterable(boxes), scores)))
    ):
        raise ValueError
    return FileDetections(images, classes, boxes, scores, [r.get("segmentation") for r in records], places)


def _checked(path: Path, records: list[Any], places: Sequence[str]) -> FileDetections:
    """As :func:`_plain`, with the words of other tools, and an error for the first record that is no detection."""
    columns = FileDetections([], [], [], [], [], places)
    for i, record in enumerate(records):
        image, label, box, score = _detection(path, places[i], record)
        columns.images.append(image)
        columns.classes.append(label)
        columns.boxes.append(box)
        columns.scores.append(score)
        columns.masks.append(next((record[key] for key in MASK if key in record), None))
    return columns


def _detection(path: Path, place: str, record: Any) -> tuple[Any, Any, list[float] | None, float]:
    """Image, class, x, y, width, height and score of one record; no box where it has a mask instead."""
    if not isinstance(record, dict):
        raise FovealError(f"expected an object, got {record!r:.80}", path=path, where=place)
    keys = [next((k for k in words if k in record), None) for words in (IMAGE, CLASS, BOX, SCORE)]
    image, label, box, score = (record.get(key) if key else None for key in keys)
    masked = box in (None, []) and any(record.get(key) for key in MASK)  # COCO's results of segmentation
    for key, first in zip(keys, ("image_id", "category_id", "bbox", "score"), strict=True):
        if key is None and not (masked and first == "bbox"):
            fix = "Give a file of detections; ground truth has no scores" if first == "score" else ""
            fix = fix or _other_file(record) or ("Give it a bbox or a segmentation" if first == "bbox" else "")
            raise FovealError(f"{first!r} is missing", path=path, where=place, fix=fix)
    if type(image) not in {int, float, str}:
        raise FovealError(f"{keys[0]} is {image!r:.80}", path=path, where=place, fix="Give it an id")
    if type(label) not in {int, str} and not _is_number(label):
        raise FovealError(f"{keys[1]} is {label!r:.80}, expected a number or a name", path=path, where=place)
    if not masked and (not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box))):
        form = "[x, y, width, height]" if keys[2] == "bbox" else "[x1, y1, x2, y2]"
        raise FovealError(f"{keys[2]} is {box!r:.80}, expected {form}, four finite numbers", path=path, where=place)
    if not _is_number(score):
        raise FovealError(f"{keys[3]} is {score!r:.80}, expected a finite number", path=path, where=place)
    assert score is not None  # for the type checker
    if masked or box is None:
        return image, label, None, score
    if keys[2] == "box":
        box = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    return image, label, box, score


def _other_file(record: Mapping[str, Any]) -> str:
    """What to give in the place of a record with other keys."""
    return EXPECTED if not {"image_id", "category_id", "bbox"} & record.keys() else ""


def _is_number(value: Any) -> bool:
    try:
        return type(value) in NUMBER and math.isfinite(value)
    except OverflowError:
        return False


def _own_names(columns: FileDetections, document: Mapping[str, Any]) -> None:
    """Takes names for ids where the file itself lists its images and categories: its numbers may be its own."""
    images, classes = (dict(_pairs(document, *key)) for key in (("images", "file_name"), ("categories", "name")))
    if images and all(value in images for value in columns.images):
        columns.ids = columns.images
        columns.images = columns.seen = [images[value] for value in columns.images]
    if classes and all(value in classes for value in columns.classes):
        columns.classes = [classes[value] for value in columns.classes]


def _pairs(document: Mapping[str, Any], key: str, name: str) -> Iterator[tuple[Any, str]]:
    rows = document.get(key)
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and type(row.get("id")) in {int, str} and isinstance(row.get(name), str):
            yield row["id"], row[name]
