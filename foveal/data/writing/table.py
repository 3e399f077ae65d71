"""Writes a dataset as a table (CSV)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from ..records.dataset import Record
from .plan import ExportPlan, line_names, lose_masks, number_text, write_image

_HEADER = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")
_UNUSABLE = re.compile(r"[\x00\ud800-\udfff]")


def write_csv(plan: ExportPlan, out: Path, link: bool) -> None:
    """``images/[SPLIT/]`` and ``SPLIT.csv`` (``annotations.csv`` without splits): a row for each object.

    An image without objects is a row without a box. Columns ``difficult`` and ``iscrowd`` are there where needed.
    """
    lose_masks(plan, "CSV")
    names = tuple(line_names(plan, _UNUSABLE))
    for record, folder, name in zip(plan.records, plan.folder, plan.names, strict=True):
        write_image(record, out / "images" / folder / name, link)
    flags = [(c, f) for c, f in (("difficult", "difficult"), ("iscrowd", "crowd")) if _any(plan.records, f)]
    for split, members in plan.members.items():
        with (out / f"{split or 'annotations'}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*_HEADER, *(column for column, _ in flags)])
            for i in members:
                name = "/".join(part for part in ("images", plan.folder[i], plan.names[i]) if part)
                writer.writerows(_rows(plan.records[i], name, names, [f for _, f in flags]))


def _any(records: list[Record], flag: str) -> bool:
    return any(getattr(record, flag).any() for record in records)


def _rows(record: Record, name: str, classes: tuple[str, ...], flags: list[str]) -> list[list[str]]:
    head = [name, str(record.width), str(record.height)]
    if not len(record):
        return [[*head, *[""] * (5 + len(flags))]]
    return [
        [
            *head,
            classes[record.labels[k]],
            *map(number_text, record.boxes[k].tolist()),
            *(str(int(getattr(record, flag)[k])) for flag in flags),
        ]
        for k in range(len(record))
    ]
