"""Reads and writes detections: COCO results JSON, folders of VOC ``comp{3,4}_det_*`` files, one text file per image.

Every error names the file and the record.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import FovealError, UsageError
from ..files.aliases import Floats, Ints
from ..files.atomic import atomic_file, folds_case, write_text, writing
from ..files.outputs import output_kind
from ..files.text import one_line
from .detection_files.columns import FileDetections, read_columns
from .detection_files.lookup import ClassNames, ImageNames, file_part, shown
from .mask_files import read_masks, written_masks
from .masks import MaskRuns
from .tables import DetectionTable, GroundTruth

UnknownClasses = Literal["error", "drop"]
ONE_BASED = np.array([1.0, 1.0, 0.0, 0.0])  # half-open -> 1-based inclusive corners


def read_detections(
    path: str | Path,
    truth: GroundTruth,
    *,
    unknown_classes: UnknownClasses = "error",
    on_note: Callable[[str], None] | None = None,
) -> DetectionTable:
    """COCO results, what ``predict --json`` writes, JSON lines or CSV, with masks where the records have any; or a
    folder of VOC ``comp{3,4}_det_*.txt`` files.

    Images are named by the ids of ``truth``, or by their files: with or without folders and extension; a number also
    matches the image whose name is that number ("000000000009"). Classes are category ids or names. ``on_note`` is told
    where something was found by another word than its id. ``unknown_classes="drop"`` leaves out detections of other
    classes (for a class subset).

    Raises :class:`FovealError` with file and record for anything that cannot be scored, and for a name that may be two
    images or two classes. An empty file is valid.
    """
    path = Path(path)
    if not path.exists():
        raise FovealError("no such file or folder", path=path, fix="Give a COCO results JSON or a folder of VOC files")
    if path.is_dir():
        return _read_voc(path, truth, unknown_classes)
    table, notes = _read_file(path, truth, unknown_classes)
    if on_note is not None:
        for note in notes:
            on_note(note)
    return table


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
        write_text(path, json.dumps(_coco_records(detections, truth)))
    elif format == "voc":
        _save_voc(detections, truth, path, f"comp{competition}_det_{split}")
    else:
        raise UsageError(f"unknown format {format!r}", fix="Choose coco or voc")


# ---------------------------------------------------------------------------------------------------- COCO
def _read_file(path: Path, truth: GroundTruth, others: UnknownClasses) -> tuple[DetectionTable, list[str]]:
    columns = read_columns(path)
    images, classes = ImageNames(truth.images, truth.files), ClassNames(truth.classes, truth.category_ids)
    if columns.ids is not None and not images.knows(path, columns.images):  # a list of images of another set
        columns.images = columns.seen = columns.ids
    if not columns.seen:
        return DetectionTable.build([], [], [], []), []
    label = classes.find(path, columns.classes, columns.places, drop=others == "drop", named=columns.named)
    index = dict(zip(columns.seen, images.find(path, columns.seen).tolist(), strict=True))
    _check_sizes(path, columns, index, truth)
    image = np.array([index[ref] for ref in columns.images], np.int64)
    masks = read_masks(path, columns.masks, columns.places, image, truth)
    box, notes = _with_boxes(columns.boxes, masks)
    corners = np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1)
    with np.errstate(over="ignore"):
        area = box[:, 2] * box[:, 3]
    if not np.isfinite(area).all():
        row = int(np.flatnonzero(~np.isfinite(area))[0])
        message = f"bbox is {box[row].tolist()}, whose area is no finite number"
        raise FovealError(message, path=path, where=columns.places[row])
    table = DetectionTable.build(image, label, corners, columns.scores, area, masks)
    if notes and masks is not None:  # as pycocotools' loadRes
        table = replace(table, area=masks.area().astype(np.float64))
    return table[label >= 0], [*_how("images", images.how), *_how("classes", classes.how), *notes]


def _with_boxes(boxes: Sequence[list[float] | None], masks: MaskRuns | None) -> tuple[Floats, list[str]]:
    """x, y, width, height (N, 4), around the masks where the file has no box, which the sentence tells."""
    missing = np.array([box is None for box in boxes], bool)
    numbers = np.array([box or [0.0] * 4 for box in boxes], np.float64).reshape(-1, 4)
    if not missing.any():
        return numbers, []
    assert masks is not None  # a record without box has a mask
    around = masks.extent[missing]
    numbers[missing] = np.concatenate([around[:, :2], around[:, 2:] - around[:, :2]], 1)
    return numbers, [f"{missing.sum()} of {len(boxes)} detections have no bbox: the box around the mask is used"]


def _how(what: str, how: Counter[str]) -> Iterator[str]:
    """A sentence where something was found by another word than its id."""
    ways = [f"{count} by {way}" for way, count in how.items() if count]
    if ways and any(how[way] for way in how if way != "id"):
        yield f"found {what}: {', '.join(ways)}"


def _check_sizes(path: Path, columns: FileDetections, index: dict[Any, int], truth: GroundTruth) -> None:
    """Raises :class:`FovealError` where an image of the file has another size: it is another image of this name."""
    for ref, (width, height) in columns.sizes.items() if truth.sizes is not None else ():
        assert truth.sizes is not None
        h, w = truth.sizes[index[ref]].tolist()
        if (w, h) not in ((width, height), (0, 0)):
            raise FovealError(
                f"image {ref!r} was {width} x {height}, and that of the dataset is {w} x {h}",
                path=path,
                fix="Give the dataset that the detections were made on",
            )


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
        what = output_kind(folder)
        message = f"{what}, not detections" if what else "no comp3_det_* or comp4_det_* file in this folder"
        raise FovealError(message, path=folder, fix=fix)
    by_length = sorted(range(len(truth.classes)), key=lambda k: -len(truth.classes[k]))
    ends = [(f"_{name}", f"_{file_part(name)}") for name in truth.classes]
    seen: dict[int, Path] = {}
    parts: list[tuple[Ints, Ints, Floats]] = []
    for file in files:
        label = next((k for k in by_length if file.stem.endswith(ends[k])), None)
        if label is None:
            if others == "drop":
                continue
            fix = f"Use the classes of the dataset: {shown(truth.classes)}"
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
    words = ImageNames(truth.images, truth.files).words(folder)
    for word in words:
        if len(word.split()) != 1:
            raise FovealError(f"image id {word!r} has a space, which VOC files cannot hold", fix="Save it as coco")
        if any("\ud800" <= c <= "\udfff" for c in word):
            raise FovealError(f"image id {word!r} is not UTF-8, which VOC files cannot hold", fix="Save it as coco")
    for name in truth.classes:
        if len(os.fsencode(f"{stem}_{file_part(name)}.txt")) > 255:
            message = f"the class {one_line(name, 40)!r} is too long for the name of a file"
            raise FovealError(message, path=folder, fix="Save it as coco")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    one_file = {file_part(name).casefold(): name for name in truth.classes}
    twin = next((name for name in truth.classes if one_file[file_part(name).casefold()] != name), None)
    if twin is not None and folds_case(folder):
        both = f"{twin!r} and {one_file[file_part(twin).casefold()]!r}"
        message = f"the classes {both} would be one file here: this disk does not tell capitals apart"
        raise FovealError(message, path=folder, fix="Save it as coco")
    box = detections.box + ONE_BASED
    with ExitStack() as files:  # renamed together
        for k, name in enumerate(truth.classes):
            rows = detections.label == k
            cells = zip(
                detections.image[rows].tolist(), detections.score[rows].tolist(), box[rows].tolist(), strict=True
            )
            lines = [f"{words[i]} {s!r} {b[0]!r} {b[1]!r} {b[2]!r} {b[3]!r}\n" for i, s, b in cells]
            part = files.enter_context(atomic_file(folder / f"{stem}_{file_part(name)}.txt"))
            part.write_text("".join(lines), encoding="utf-8")


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
                where, fix = f"line {i + 1}", f"Use the classes of the dataset: {shown(truth.classes)}"
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
    """Index (n,) of each image in ``truth.images``. Raises :class:`FovealError` for those that it does not have."""
    return ImageNames(truth.images, truth.files).find(path, ids)


def _joined(parts: list[tuple[Ints, Ints, Floats]]) -> tuple[Ints, Ints, Floats]:
    """Image (N,), label (N,) and numbers (N, 5) of all files, concatenated."""
    none = np.zeros(0, np.int64)
    image = np.concatenate([none, *(p[0] for p in parts)])
    label = np.concatenate([none, *(p[1] for p in parts)])
    return image, label, np.concatenate([np.zeros((0, 5)), *(p[2] for p in parts)])
