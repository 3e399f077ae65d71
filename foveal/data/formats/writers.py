"""Writes datasets as VOC, COCO or YOLO: each writer fills an empty folder according to a plan."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from ..records.dataset import Dataset, Record
from ..records.segmentation import coco_segmentations
from ..records.splits import SPLIT_ALIASES
from .voc_xml import SOURCE
from .yolo import FLAGS

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # and bytes of file names that are not UTF-8


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
    stem, suffix = _CONTROL.sub("_", path.stem).strip() or "image", path.suffix
    name, n = stem, 1
    while f"{prefix}{name}".lower() in used:
        n += 1
        name = f"{stem}_{n}"
    used.add(f"{prefix}{name}".lower())
    return name + suffix


def _write_image(record: Record, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(os.path.realpath(record.path))
    else:
        shutil.copyfile(record.path, target)


def _write_json(value: object, path: Path) -> None:
    """UTF-8; a lone surrogate in a class name becomes JSON's escape ``\\udcff``."""
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8", errors="backslashreplace")


# ------------------------------------------------------------------------------------------------- writers
def _number(value: float) -> str:
    """The shortest text that parses to the same number."""
    return str(int(value)) if value == int(value) else repr(float(value))


def _plain(value: float) -> float | int:
    return int(value) if value == int(value) else float(value)


def write_voc(plan: ExportPlan, out: Path, link: bool) -> None:
    """A devkit year folder: JPEGImages, Annotations, ImageSets/Main and classes.txt."""
    (out / "Annotations").mkdir()
    for record, name in zip(plan.records, plan.names, strict=True):
        _write_image(record, out / "JPEGImages" / name, link)
        xml = out / "Annotations" / f"{Path(name).stem}.xml"
        xml.write_text(voc_xml(record, plan.classes, name), encoding="utf-8")
    sets = out / "ImageSets" / "Main"
    for split, members in plan.members.items():
        if split:
            sets.mkdir(parents=True, exist_ok=True)
            lines = "".join(f"{Path(plan.names[i]).stem}\n" for i in members)
            (sets / f"{split}.txt").write_text(lines, encoding="utf-8")
    names = "".join(f"{_CONTROL.sub(' ', name)}\n" for name in plan.classes)
    (out / "classes.txt").write_text(names, encoding="utf-8")


def voc_xml(record: Record, classes: Sequence[str], file_name: str) -> str:
    """The VOC annotation of a record: boxes 1-based and inclusive, integers where possible."""

    def text(value: str) -> str:
        return escape(_CONTROL.sub(" ", value))

    lines = [
        "<annotation>",
        f"\t<filename>{text(file_name)}</filename>",
        f"\t<source><annotation>{SOURCE}</annotation></source>",
        f"\t<size><width>{record.width}</width><height>{record.height}</height><depth>3</depth></size>",
        "\t<segmented>0</segmented>",
    ]
    for k, box in enumerate(record.boxes.tolist()):
        corners = {"xmin": box[0] + 1, "ymin": box[1] + 1, "xmax": box[2], "ymax": box[3]}
        bndbox = "".join(f"<{key}>{_number(value)}</{key}>" for key, value in corners.items())
        crowd = "<crowd>1</crowd>" if record.crowd[k] else ""
        lines += [
            "\t<object>",
            f"\t\t<name>{text(classes[record.labels[k]])}</name>",
            "\t\t<pose>Unspecified</pose>",
            "\t\t<truncated>0</truncated>",
            f"\t\t<difficult>{int(record.difficult[k])}</difficult>{crowd}",
            f"\t\t<bndbox>{bndbox}</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def write_coco(plan: ExportPlan, out: Path, link: bool) -> None:
    """``annotations/instances_SPLIT.json`` (``instances.json`` without splits) and ``images/[SPLIT/]``."""
    ids = [r.id for r in plan.records]
    if not all(isinstance(id, int) for id in ids) or len(set(ids)) < len(ids):
        ids = list(range(1, len(ids) + 1))
    (out / "annotations").mkdir()
    for i, record in enumerate(plan.records):
        _write_image(record, out / "images" / plan.folder[i] / plan.names[i], link)
    for split, members in plan.members.items():
        doc = coco_document(plan, members, ids)
        name = f"instances_{split}.json" if split else "instances.json"
        _write_json(doc, out / "annotations" / name)


def coco_document(plan: ExportPlan, members: Sequence[int], ids: Sequence[int | str]) -> dict[str, object]:
    """The COCO document of some of a plan's images."""
    several = len({s for s in plan.folder}) > 1
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for i in members:
        record = plan.records[i]
        name = f"{plan.folder[i]}/{plan.names[i]}" if several and plan.folder[i] else plan.names[i]
        images.append({"id": ids[i], "file_name": name, "width": record.width, "height": record.height})
        masks = coco_segmentations(record)
        for k in range(len(record)):
            annotation: dict[str, object] = {
                "id": len(annotations) + 1,
                "image_id": ids[i],
                "category_id": plan.category_ids[record.labels[k]],
                "bbox": [_plain(v) for v in _xywh(record, k)],
                "area": _plain(float(record.area[k])),
                "iscrowd": int(record.crowd[k]),
                "segmentation": masks[k] or [],
            }
            if record.difficult[k]:
                annotation["difficult"] = 1
            annotations.append(annotation)
    categories = [{"id": id, "name": name} for id, name in zip(plan.category_ids, plan.classes, strict=True)]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def _xywh(record: Record, k: int) -> tuple[float, float, float, float]:
    """COCO's box of an object: bit-identical to that in its COCO file, unless it was clipped."""
    x1, y1, x2, y2 = record.boxes[k].tolist()
    if record.stated is not None:
        x, y, w, h = record.stated[k, :4].tolist()
        if (x, y, x + w, y + h) == (x1, y1, x2, y2):
            return x, y, w, h
    return x1, y1, x2 - x1, y2 - y1


def write_yolo(plan: ExportPlan, out: Path, link: bool) -> None:
    """``images/[SPLIT/]``, ``labels/[SPLIT/]``, ``data.yaml``; ``flags.json`` where an object is crowd or difficult."""
    flags: dict[str, dict[str, list[int]]] = {}
    for i, record in enumerate(plan.records):
        _write_image(record, out / "images" / plan.folder[i] / plan.names[i], link)
        label = Path("labels", plan.folder[i], f"{Path(plan.names[i]).stem}.txt")
        (out / label).parent.mkdir(parents=True, exist_ok=True)
        (out / label).write_text(yolo_lines(record), encoding="utf-8")
        lines = {
            key: [k + 1 for k, on in enumerate(getattr(record, key).tolist()) if on] for key in ("crowd", "difficult")
        }
        if any(lines.values()):
            flags[label.as_posix()] = {key: value for key, value in lines.items() if value}
    if flags:
        _write_json(flags, out / FLAGS)
    entries = {split or "train": _yolo_entry(plan, split, out) for split in plan.members}
    keys = [f"{split}: {json.dumps(entry, ensure_ascii=False)}" for split, entry in entries.items()]
    if "train" in entries and "val" not in entries:
        keys.append(f"val: {json.dumps(entries['train'], ensure_ascii=False)}  # there is no val split")
    names = [f"  {k}: {json.dumps(name, ensure_ascii=False)}" for k, name in enumerate(plan.classes)]
    text = "\n".join(["path: .", *keys, f"nc: {len(names)}", "names:", *names, ""])
    (out / "data.yaml").write_text(text, encoding="utf-8", errors="backslashreplace")


def _yolo_entry(plan: ExportPlan, split: str, out: Path) -> str | list[str]:
    """How ``data.yaml`` names a split: its folder, several folders, or a list of images."""
    members = plan.members[split]
    folders = sorted({plan.folder[i] for i in members}, key=list(plan.members).index)
    whole = [i for i, folder in enumerate(plan.folder) if folder in folders]
    if sorted(members) == whole and members:
        entries = [f"images/{folder}" if folder else "images" for folder in folders]
        return entries[0] if len(entries) == 1 else entries
    lines = "".join(f"./images/{plan.folder[i]}/{plan.names[i]}\n" for i in members)
    (out / f"{split}.txt").write_text(lines, encoding="utf-8")
    return f"{split}.txt"


def yolo_lines(record: Record) -> str:
    """A line ``class cx cy w h`` for each object, in fractions of the image, with all digits."""
    lines = []
    for label, (x1, y1, x2, y2) in zip(record.labels.tolist(), record.boxes.tolist(), strict=True):
        values = (
            (x1 + x2) / 2 / record.width,
            (y1 + y2) / 2 / record.height,
            (x2 - x1) / record.width,
            (y2 - y1) / record.height,
        )
        lines.append(f"{label} " + " ".join(_number(v) for v in values) + "\n")
    return "".join(lines)


WRITERS: dict[str, Callable[[ExportPlan, Path, bool], None]] = {
    "voc": write_voc,
    "coco": write_coco,
    "yolo": write_yolo,
}
