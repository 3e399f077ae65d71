"""Reads and writes detections: COCO results JSON, folders of VOC ``comp{3,4}_det_*`` files, one text file per image.

Every error names the file and the record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import FovealError, UsageError
from ..files.aliases import Floats, Ints
from .mask_files import read_masks, written_masks
from .tables import DetectionTable, GroundTruth

UnknownClasses = Literal["error", "drop"]
NUMBER = {int, float}
ONE_BASED = np.array([1.0, 1.0, 0.0, 0.0])  # half-open -> 1-based inclusive corners


def read_detections(
    path: str | Path, truth: GroundTruth, *, unknown_classes: UnknownClasses = "error"
) -> DetectionTable:
    """COCO results JSON, with masks where its records have a ``segmentation``, or a folder of VOC
    ``comp{3,4}_det_*.txt`` files.

    Image ids must be those of ``truth``; a number also matches the image whose name is that number ("000000000009").
    ``unknown_classes="drop"`` leaves out detections of other classes (for a class subset).

    Raises :class:`FovealError` with file and record for anything that cannot be scored. An empty file is valid.
    """
    path = Path(path)
    if not path.exists():
        raise FovealError("no such file or folder", path=path, fix="Give a COCO results JSON or a folder of VOC files")
    return _read_voc(path, truth, unknown_classes) if path.is_dir() else _read_coco(path, truth, unknown_classes)


def save_detections(
    detections: DetectionTable,
    truth: GroundTruth,
    path: str | Path,
    format: Literal["coco", "voc"] = "coco",
    *,
    split: str = "val",
    competition: int = 4,
) -> None:
    """Writes one COCO results JSON, or one ``comp<competition>_det_<split>_<class>.txt`` per class into a folder (VOC,
    1-based inclusive boxes).

    Where ``truth`` has no COCO category ids they are label + 1. Raises :class:`FovealError` for detections that do not
    belong to ``truth`` and image ids that VOC files cannot hold, :class:`UsageError` for an unknown format.
    """
    detections.check_against(truth)
    path = Path(path)
    if format == "coco":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_coco_records(detections, truth)), encoding="utf-8")
    elif format == "voc":
        _save_voc(detections, truth, path, f"comp{competition}_det_{split}")
    else:
        raise UsageError(f"unknown format {format!r}", fix="Choose coco or voc")


# ---------------------------------------------------------------------------------------------------- COCO
def _read_coco(path: Path, truth: GroundTruth, others: UnknownClasses) -> DetectionTable:
    try:
        data = json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as e:
        raise FovealError(f"not JSON: {e.msg}", path=path, where=f"line {e.lineno}, column {e.colno}") from e
    except (ValueError, RecursionError, OSError) as e:
        raise FovealError(f"cannot be read as JSON ({e})", path=path) from e
    records = data.get("annotations") if isinstance(data, dict) else data
    if not isinstance(records, list):
        raise FovealError(
            f"expected a list of detections, got {type(data).__name__}",
            path=path,
            fix='Write COCO results as [{"image_id", "category_id", "bbox": [x, y, width, height], "score"}, ...]',
        )
    if not records:
        return DetectionTable.build([], [], [], [])
    try:
        images, categories, boxes, scores = (
            [r[key] for r in records] for key in ("image_id", "category_id", "bbox", "score")
        )
        valid = (
            set(map(type, chain(chain.from_iterable(boxes), scores, categories))) <= NUMBER
            and set(map(type, images)) <= {int, float, str}
            and set(map(type, boxes)) == {list}
            and set(map(len, boxes)) == {4}
        )
        box, score = np.array(boxes, np.float64), np.array(scores, np.float64)
        valid = valid and bool(np.isfinite(box).all() and np.isfinite(score).all())
    except (TypeError, KeyError, ValueError, OverflowError):
        valid = False
    if not valid:
        raise _first_error(path, records)
    label = _labels(path, categories, truth, others)
    image = _image_indices(path, images, truth)
    keep = label >= 0
    masks = read_masks(path, records, image, truth)
    masks = None if masks is None else masks[keep]
    box, image, score, label = box[keep], image[keep], score[keep], label[keep]
    corners = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1)
    return DetectionTable.build(image, label, corners, score, box[:, 2] * box[:, 3], masks)


def _first_error(path: Path, records: list[Any]) -> FovealError:
    """The error for the first invalid record."""
    for i, r in enumerate(records):
        where = f"record {i}"
        if not isinstance(r, dict):
            return FovealError(f"expected an object, got {r!r:.80}", path=path, where=where)
        for key in ("image_id", "category_id", "bbox", "score"):
            if key not in r:
                fix = "Give a file of detections; ground truth has no scores" if key == "score" else ""
                return FovealError(f"{key!r} is missing", path=path, where=where, fix=fix)
        if type(r["image_id"]) not in {int, float, str}:
            return FovealError(f"image_id is {r['image_id']!r:.80}", path=path, where=where, fix="Give it an id")
        if type(r["category_id"]) is not int and not _is_number(r["category_id"]):
            return FovealError(f"category_id is {r['category_id']!r:.80}, expected a number", path=path, where=where)
        box = r["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            message = f"bbox is {box!r:.80}, expected [x, y, width, height], four finite numbers"
            return FovealError(message, path=path, where=where)
        if not _is_number(r["score"]):
            return FovealError(f"score is {r['score']!r:.80}, expected a finite number", path=path, where=where)
    return FovealError("the records cannot be read", path=path)


def _is_number(value: Any) -> bool:
    try:
        return type(value) in NUMBER and math.isfinite(value)
    except OverflowError:
        return False


def _labels(path: Path, categories: list[Any], truth: GroundTruth, others: UnknownClasses) -> Ints:
    """Label (N,) of each record, -1 where its class is to be dropped."""
    ids = truth.category_ids or tuple(range(1, 1 + len(truth.classes)))
    label = {number: k for k, number in enumerate(ids)}
    labels = np.array([label.get(c, -1) for c in categories], np.int64)
    if others == "error" and (labels < 0).any():
        row = int(np.flatnonzero(labels < 0)[0])
        unknown = sorted({c for c in categories if c not in label}, key=repr)
        names = _some(f"{number} ({name})" for number, name in zip(ids, truth.classes, strict=True))
        why = "" if truth.category_ids else ", numbered from 1 because this dataset has no category ids of its own"
        raise FovealError(
            f"unknown category id {categories[row]!r}; {len(unknown)} unknown in all: {_some(unknown)}",
            path=path,
            where=f"record {row}",
            fix=f"Use the ids of the dataset: {names}{why}",
        )
    return labels


def _coco_records(detections: DetectionTable, truth: GroundTruth) -> list[dict[str, Any]]:
    """One COCO results record per detection, with its mask where there are masks."""
    ids = truth.category_ids or tuple(range(1, 1 + len(truth.classes)))
    box = np.concatenate([detections.box[:, :2], detections.box[:, 2:] - detections.box[:, :2]], 1).tolist()
    rows = zip(detections.image.tolist(), detections.label.tolist(), box, detections.score.tolist(), strict=True)
    records: list[dict[str, Any]] = [
        {"image_id": truth.images[i], "category_id": ids[k], "bbox": b, "score": s} for i, k, b, s in rows
    ]
    if detections.masks is None:
        return records
    return [record | mask for record, mask in zip(records, written_masks(detections, truth), strict=True)]


# ----------------------------------------------------------------------------------------------------- VOC
def _read_voc(folder: Path, truth: GroundTruth, others: UnknownClasses) -> DetectionTable:
    files = sorted(folder.glob("comp[34]_det_*.txt"))
    if not files:
        fix = "Give a folder of files comp4_det_<split>_<class>.txt (VOC) or one JSON file (COCO)"
        raise FovealError("no comp3_det_* or comp4_det_* file in this folder", path=folder, fix=fix)
    by_length = sorted(range(len(truth.classes)), key=lambda k: -len(truth.classes[k]))
    seen: dict[int, Path] = {}
    parts: list[tuple[Ints, Ints, Floats]] = []
    for file in files:
        label = next((k for k in by_length if file.stem.endswith(f"_{truth.classes[k]}")), None)
        if label is None:
            if others == "drop":
                continue
            fix = f"Use the classes of the dataset: {_some(truth.classes)}"
            raise FovealError("the file name does not end with a class of the dataset", path=file, fix=fix)
        if label in seen:
            message = f"a second file for class {truth.classes[label]!r}, after {seen[label].name}"
            raise FovealError(message, path=file, fix="Keep the files of one competition and split in the folder")
        seen[label] = file
        names, numbers = _text_table(file, leading=1, fields="<image id> <score> <x1> <y1> <x2> <y2>")
        image = _image_indices(file, [n[0] for n in names], truth)
        parts.append((image, np.full(len(image), label), numbers))
    image, labels, numbers = _joined(parts)
    box = numbers[:, 1:] - ONE_BASED
    return DetectionTable.build(image, labels, box, numbers[:, 0])


def _save_voc(detections: DetectionTable, truth: GroundTruth, folder: Path, stem: str) -> None:
    for image in truth.images:
        if len(str(image).split()) != 1:
            raise FovealError(f"image id {image!r} has a space, which VOC files cannot hold", fix="Save it as coco")
        if any("\ud800" <= c <= "\udfff" for c in str(image)):
            raise FovealError(f"image id {image!r} is not UTF-8, which VOC files cannot hold", fix="Save it as coco")
    folder.mkdir(parents=True, exist_ok=True)
    box = detections.box + ONE_BASED
    for k, name in enumerate(truth.classes):
        rows = detections.label == k
        cells = zip(detections.image[rows].tolist(), detections.score[rows].tolist(), box[rows].tolist(), strict=True)
        lines = [f"{truth.images[i]} {s!r} {b[0]!r} {b[1]!r} {b[2]!r} {b[3]!r}\n" for i, s, b in cells]
        (folder / f"{stem}_{name}.txt").write_text("".join(lines), encoding="utf-8")


# ---------------------------------------------------------------------------------------- one file per image
def read_text_detections(
    folder: str | Path,
    truth: GroundTruth,
    boxes: Literal["xywh", "xyxy", "relative"] = "xywh",
    names: Sequence[str] | None = None,
) -> DetectionTable:
    """Reads a folder of ``<image id>.txt`` with lines ``<class> <score> <4 numbers>``.

    ``boxes``: absolute x, y, width, height; absolute corners; or center x, y, width, height relative to the image
    (needs ``truth.sizes``). The class is a name, or an index into ``names``.

    Raises :class:`FovealError` with file and line for anything that cannot be scored.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise FovealError("no .txt file in this folder", path=folder)
    label = {name: k for k, name in enumerate(truth.classes)}
    parts: list[tuple[Ints, Ints, Floats]] = []
    for file in files:
        words, numbers = _text_table(file, leading=1, fields="<class> <score> <4 numbers of the box>")
        labels = np.zeros(len(words), np.int64)
        for i, (word,) in enumerate(words):
            name = names[int(word)] if names and word.isdecimal() and int(word) < len(names) else word
            if name not in label:
                where, fix = f"line {i + 1}", f"Use the classes of the dataset: {_some(truth.classes)}"
                raise FovealError(f"unknown class {word!r}", path=file, where=where, fix=fix)
            labels[i] = label[name]
        image = _image_indices(file, [file.stem], truth)
        parts.append((np.repeat(image, len(words)), labels, numbers))
    image, labels, numbers = _joined(parts)
    score, box = numbers[:, 0], numbers[:, 1:]
    if boxes == "relative":
        if truth.sizes is None:
            raise UsageError("relative boxes need the image sizes")
        box = box * np.tile(truth.sizes[image][:, ::-1], 2)
        box = np.concatenate([box[:, :2] - box[:, 2:] / 2, box[:, 2:]], 1)
    if boxes != "xyxy":
        box = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1)
    return DetectionTable.build(image, labels, box, score)


# -------------------------------------------------------------------------------------------------- shared
def _text_table(path: Path, *, leading: int, fields: str) -> tuple[list[list[str]], Floats]:
    """Lines of ``leading`` words and five numbers: the words of each line, and the numbers (n, 5)."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as e:
        raise FovealError(f"cannot be read as text ({e})", path=path) from e
    words: list[list[str]] = []
    rows: list[list[float]] = []
    for i, line in enumerate(lines):
        cells = line.split()
        if not cells:
            continue
        try:
            row = [float(c) for c in cells[leading:]]
        except ValueError:
            row = []
        if len(row) != 5 or not all(map(math.isfinite, row)):
            message = f"got {line.strip()!r:.80}, expected {fields}, finite numbers"
            raise FovealError(message, path=path, where=f"line {i + 1}")
        words.append(cells[:leading])
        rows.append(row)
    return words, np.array(rows, np.float64).reshape(-1, 5)


def _image_indices(path: Path, ids: Sequence[Any], truth: GroundTruth) -> Ints:
    """Index (n,) of each id in ``truth.images``. Raises :class:`FovealError` for ids that it does not have."""
    index: dict[Any, int] = {}
    for i, image in enumerate(truth.images):  # a number matches the name that is that number, and vice versa
        if isinstance(image, str) and image.isascii() and image.isdecimal():
            other: int | str = int(image)
        else:
            other = str(image)
        index[other] = -1 if other in index else i
    index |= {image: i for i, image in enumerate(truth.images)}
    indices = np.array([index.get(i, -1) for i in ids], np.int64)
    if (indices < 0).any():
        missing = list(dict.fromkeys(i for i, at in zip(ids, indices, strict=True) if at < 0))
        raise FovealError(
            f"{len(missing)} of {len(set(ids))} image ids are not in the dataset: {_some(missing)}",
            path=path,
            fix=f"Check the split: the dataset has {len(truth.images)} images: {_some(truth.images)}",
        )
    return indices


def _joined(parts: list[tuple[Ints, Ints, Floats]]) -> tuple[Ints, Ints, Floats]:
    """Image (N,), label (N,) and numbers (N, 5) of all files, concatenated."""
    none = np.zeros(0, np.int64)
    image = np.concatenate([none, *(p[0] for p in parts)])
    label = np.concatenate([none, *(p[1] for p in parts)])
    return image, label, np.concatenate([np.zeros((0, 5)), *(p[2] for p in parts)])


def _some(values: Iterable[Any], limit: int = 5) -> str:
    shown = [str(v) for v in values]
    return ", ".join(shown[:limit]) + (", ..." if len(shown) > limit else "")
