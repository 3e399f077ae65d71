"""Writes a dataset in the YOLO format."""

from __future__ import annotations

import json
from pathlib import Path

from ..formats.yolo.reader import FLAGS
from ..records.dataset import Record
from ..records.findings import counted
from ..records.splits import SPLIT_ALIASES
from .plan import ExportPlan, lose_masks, number_text, write_document, write_image


def write_yolo(plan: ExportPlan, out: Path, link: bool) -> None:
    """``images/[SPLIT/]``, ``labels/[SPLIT/]``, ``data.yaml``; ``flags.json`` where an object is crowd or difficult."""
    flags: dict[str, dict[str, list[int]]] = {}
    lose_masks(plan, "YOLO")
    for i, record in enumerate(plan.records):
        write_image(record, out / "images" / plan.folder[i] / plan.names[i], link)
        label = Path("labels", plan.folder[i], f"{Path(plan.names[i]).stem}.txt")
        (out / label).parent.mkdir(parents=True, exist_ok=True)
        (out / label).write_text(yolo_lines(record), encoding="utf-8")
        lines = {
            key: [k + 1 for k, on in enumerate(getattr(record, key).tolist()) if on] for key in ("crowd", "difficult")
        }
        if any(lines.values()):
            flags[label.as_posix()] = {key: value for key, value in lines.items() if value}
    if flags:
        write_document(flags, out / FLAGS)
    entries = {key: _yolo_entry(plan, split, out) for split, key in _keys(plan).items()}
    keys = [f"{split}: {json.dumps(entry, ensure_ascii=False)}" for split, entry in entries.items()]
    if not {"val", "valid"} & entries.keys():
        keys.append("# there is no val split: foveal data split makes one")
        plan.lose("split-missing", "there is no split val, which Ultralytics needs (foveal data split makes one)")
    names = [f"  {k}: {yaml_text(name)}" for k, name in enumerate(plan.classes)]
    text = "\n".join(["path: .", *keys, f"nc: {len(names)}", "names:", *names, ""])
    (out / "data.yaml").write_text(text, encoding="utf-8")


def _keys(plan: ExportPlan) -> dict[str, str]:
    """Split -> its key in ``data.yaml``. A split of another name is train's if there is no train, else it has none."""
    keys: dict[str, str] = {}
    others: list[str] = []
    for split in plan.members:
        key = next((k for k, aliases in SPLIT_ALIASES.items() if split in aliases), "train" if not split else "")
        if key and key not in keys.values():
            keys[split] = key
        else:
            others.append(split)
    for split in others:
        used = "train" not in keys.values()
        what = "is called train" if used else "is in no split of data.yaml"
        message = (
            f"the split {split!r} of {counted(len(plan.members[split]), 'image')} {what}: YOLO has train, val and test"
        )
        plan.lose("splits-lost", message, "warning")
        if used:
            keys[split] = "train"
    return keys


def yaml_text(text: str) -> str:
    """A YAML scalar in double quotes, with escapes for what YAML does not allow (control characters, surrogates)."""
    plain = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == " " else f"\\U{ord(c):08x}" for c in plain)


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
        lines.append(f"{label} " + " ".join(number_text(v) for v in values) + "\n")
    return "".join(lines)
