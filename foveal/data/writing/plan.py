"""What the writers of datasets share: the plan of an export, and how an image, JSON and numbers are written."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..records.dataset import Dataset, Record
from ..records.splits import SPLIT_ALIASES

CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # and bytes of file names that are not UTF-8


@dataclass
class ExportPlan:
    """Folder and name of each image, which is written once, in the first split that has it."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: list[Record]
    folder: list[str]  # the split in whose folder each image is; "" where there are no splits
    names: list[str]  # new file names, unique within the folder (over all where not nested)
    members: dict[str, list[int]]  # split -> indices into records

    @classmethod
    def of(cls, parts: Mapping[str, Dataset], nested: bool) -> ExportPlan:
        base = [s for s in SPLIT_ALIASES if s in parts and s != "trainval"]
        order = base + [s for s in parts if s not in base]
        index: dict[str, int] = {}
        plan = cls(next(iter(parts.values())).classes, (), [], [], [], {name: [] for name in parts})
        used: set[str] = set()
        for name in order:
            for record in parts[name].records:
                key = str(record.path)
                if key not in index:
                    index[key] = len(plan.records)
                    plan.records.append(record)
                    plan.folder.append(name)
                    plan.names.append(_free(record.path, f"{name}/" if nested else "", used))
                plan.members[name].append(index[key])
        ids = next((p.category_ids for p in parts.values() if p.category_ids is not None), None)
        plan.category_ids = ids if ids is not None else tuple(range(1, len(plan.classes) + 1))
        return plan


def _free(path: Path, prefix: str, used: set[str]) -> str:
    """A file name like that of ``path`` with an unused stem (annotations share it), without control characters."""
    stem, suffix = CONTROL.sub("_", path.stem).strip() or "image", path.suffix
    name, n = stem, 1
    while f"{prefix}{name}".lower() in used:
        n += 1
        name = f"{stem}_{n}"
    used.add(f"{prefix}{name}".lower())
    return name + suffix


def write_image(record: Record, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(os.path.realpath(record.path))
    else:
        shutil.copyfile(record.path, target)


def write_document(value: object, path: Path) -> None:
    """UTF-8; a lone surrogate in a class name becomes JSON's escape ``\\udcff``."""
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8", errors="backslashreplace")


def number_text(value: float) -> str:
    """The shortest text that parses to the same number."""
    return str(int(value)) if value == int(value) else repr(float(value))


def plain_number(value: float) -> float | int:
    return int(value) if value == int(value) else float(value)
