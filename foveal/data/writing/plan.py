"""What the writers of datasets share: the plan of an export, and how an image, JSON and numbers are written."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from ..records.dataset import Dataset, Record
from ..records.findings import counted
from ..records.splits import SPLIT_ALIASES

# ends of lines, what XML and YAML do not allow, and bytes of file names that are not UTF-8
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


class Loss(NamedTuple):
    """Something that a format cannot store."""

    code: str
    severity: Literal["note", "warning"]
    message: str


@dataclass
class ExportPlan:
    """Folder and name of each image, which is written once, in the first split that has it."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: list[Record]
    folder: list[str]  # the split in whose folder each image is; "" where there are no splits
    names: list[str]  # new file names, unique within the folder (over all where not nested)
    members: dict[str, list[int]]  # split -> indices into records
    losses: list[Loss] = field(default_factory=list)  # what the format cannot store, added by its writer

    def lose(self, code: str, message: str, severity: Literal["note", "warning"] = "note") -> None:
        """Notes what the format cannot store: a finding of the conversion."""
        self.losses.append(Loss(code, severity, message))

    @classmethod
    def of(cls, parts: Mapping[str, Dataset], nested: bool) -> ExportPlan:
        """The plan of splits, whose names become those of folders and files."""
        parts = dict(zip(_folder_names(parts), parts.values(), strict=True))
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


def _folder_names(splits: Iterable[str]) -> list[str]:
    """The names of splits as names of folders, all different: letters, digits, ``.``, ``-`` and ``_``."""
    names: list[str] = []
    for split in splits:
        name = base = re.sub(r"[^\w.-]+", "_", split).strip("._") or ("split" if split else "")
        n = 1
        while name in names:
            n += 1
            name = f"{base}_{n}"
        names.append(name)
    return names


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


def line_names(plan: ExportPlan, unusable: re.Pattern[str] = CONTROL) -> list[str]:
    """The class names as lines of text hold them: without ``unusable`` characters and all different.

    A name that changes is a loss.
    """
    names: list[str] = []
    for name in plan.classes:
        text = base = unusable.sub(" ", name).strip() or "class"
        n = 1
        while text in names:
            n += 1
            text = f"{base} {n}"
        names.append(text)
        if text != name:
            plan.lose("class-renamed", f"the class {name!r} is written as {text!r}", "warning")
    return names


def lose_flags(plan: ExportPlan, format: str) -> None:
    """Notes the crowd regions and difficult objects of a format that has neither: they become ordinary objects."""
    for flag, what in (("crowd", "crowd region"), ("difficult", "difficult object")):
        count = sum(int(getattr(record, flag).sum()) for record in plan.records)
        if count:
            message = f"{counted(count, what)} written as any other object: {format} has no such flag"
            plan.lose(f"{flag}-lost", message, "warning")


def lose_masks(plan: ExportPlan, format: str) -> None:
    """Notes the images whose masks are not written."""
    count = sum(record.masks is not None for record in plan.records)
    if count:
        plan.lose("masks-lost", f"masks of {counted(count, 'image')} are not written: {format} cannot store them")


def lose_overlaps(plan: ExportPlan, format: str) -> None:
    """Notes splits whose images are also in another split, where the format puts each image into one."""
    both = {*plan.members.get("train", ()), *plan.members.get("val", ())}
    for split, members in plan.members.items():
        elsewhere = sum(plan.folder[i] != split for i in members)
        if elsewhere and not (split == "trainval" and set(members) == both):  # which train and val make again
            message = f"{counted(elsewhere, 'image')} of {split!r} also in another split, written only there"
            plan.lose("splits-lost", f"{message}: {format} has one split for each image", "warning")
