"""Reads CSV files of detections: a line of column names, then a detection a line."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from ...errors import FovealError

# column names in lower case without spaces and underscores -> what they mean
COLUMNS = {
    "image": ("imageid", "image", "filename", "imagename", "imagepath", "path", "file", "img"),
    "label": ("class", "label", "classname", "category", "categoryname", "labelname", "name", "categoryid", "classid"),
    "score": ("score", "confidence", "conf", "probability"),
    "x1": ("x1", "xmin", "left"),
    "y1": ("y1", "ymin", "top"),
    "x2": ("x2", "xmax", "right"),
    "y2": ("y2", "ymax", "bottom"),
    "x": ("x",),
    "y": ("y",),
    "width": ("w", "width", "boxwidth"),
    "height": ("h", "height", "boxheight"),
}
CORNERS, SIDES = ("x1", "y1", "x2", "y2"), ("x", "y", "width", "height")
FIX = "Write a line of names first, such as image,class,score,x1,y1,x2,y2, or give COCO results"


def read_csv(path: Path, text: str) -> tuple[list[Any], list[str]]:
    """Records with image, label, score and box or bbox, and the line of each. Raises :class:`FovealError`."""
    lines = text.splitlines()
    head = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t|", key=head.count)
    rows = [(number, row) for number, row in _rows(path, lines, delimiter) if any(cell.strip() for cell in row)]
    if not rows:
        return [], []
    names = _meanings(path, rows[0][1])
    sides = SIDES if all(name in names for name in SIDES) else CORNERS
    if "x1" in names and "width" in names and "x2" not in names:  # left, top, width, height
        names = {**names, "x": names["x1"], "y": names["y1"]} if "y1" in names else names
        sides = SIDES
    missing = [name for name in ("image", "label", "score", *sides) if name not in names]
    if missing:
        raise FovealError(f"there is no column {missing[0]}", path=path, where=f"line {rows[0][0]}", fix=FIX)
    records: list[Any] = []
    places: list[str] = []
    for number, row in rows[1:]:
        where = f"line {number}"
        if len(row) <= max(names.values()):
            raise FovealError(f"{len(row)} columns, expected {len(rows[0][1])}", path=path, where=where)
        cells = {name: row[column].strip() for name, column in names.items()}
        box = [_number(path, where, name, cells[name]) for name in sides]
        score = _number(path, where, "score", cells["score"])
        key = "bbox" if sides is SIDES else "box"
        records.append({"image": cells["image"], "label": cells["label"], key: box, "score": score})
        places.append(where)
    return records, places


def _rows(path: Path, lines: list[str], delimiter: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, skipinitialspace=True)
    try:
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise FovealError(f"not CSV: {error}", path=path, where=f"line {reader.line_num}") from None


def _meanings(path: Path, header: list[str]) -> dict[str, int]:
    """Meaning -> column."""
    plain = [cell.strip().lower().replace(" ", "").replace("_", "").replace("-", "") for cell in header]
    found: dict[str, int] = {}
    for meaning, words in COLUMNS.items():
        columns = [plain.index(word) for word in words if word in plain]
        if columns:
            found[meaning] = columns[0]
    if len(found) < 2:
        raise FovealError(f"the first line names no columns: {','.join(header):.80}", path=path, fix=FIX)
    return found


def _number(path: Path, where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise FovealError(f"{name} is {text!r:.80}, expected a finite number", path=path, where=where)
    return value
