"""What a YOLO dataset consists of: the images of each split and the class names, as a ``data.yaml`` states them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....errors import nearest
from ....files.reading import Unreadable, YamlOddities, read_yaml
from ...records.findings import Findings
from ..validate import number, unique_names
from .labels import YoloClasses
from .names import yaml_names

_OTHER_SPLITS = ("training", "validation", "testing")
_KEYS = {
    *("train", "val", "valid", "test", "trainval", "path", "names", "nc", "task", "kpt_shape", "flip_idx", "download"),
    *("roboflow", "channels", "kpt_names", "minival", "url", "yaml_file", "author", "license", "version", "scale"),
}
_SPLIT_KEYS = ("train", "val", "valid", "test", "trainval")  # Ultralytics does not have the last one


@dataclass(frozen=True)
class YoloLayout:
    """The folders and lists of each split, and the classes. Without ``names`` the dataset has no classes."""

    home: Path  # the folder of the data.yaml, or of whatever states the layout
    root: Path  # entries are relative to it, or else to ``home``
    entries: Mapping[str, Sequence[str]] = field(default_factory=dict)  # split ("": no splits) -> folders, text files
    names: Sequence[str] = ()  # by class number, repeats included
    named_in: Path | None = None  # the file of the names, if it is not the dataset's path
    label_folders: Mapping[Path, Path] = field(default_factory=dict)  # of images -> of labels, before any rule
    nested: bool = True  # whether a folder's own folders belong to it
    kpt_shape: tuple[int, int] | None = None  # number of keypoints after a box, and numbers of each
    task: str = ""  # detect, segment, pose or obb, where it is stated


def read_layout(path: Path, findings: Findings) -> YoloLayout:
    """The layout that a ``data.yaml`` states; what is wrong with it becomes findings."""
    oddities = YamlOddities()
    try:
        doc = read_yaml(path, oddities)
        if not isinstance(doc, dict):
            raise Unreadable("expected keys and values (train, val, names)", "See the Ultralytics format")
    except Unreadable as error:
        findings.add("error", "annotation-unreadable", path, "", error.message, error.fix)
        return YoloLayout(path.parent, path.parent)
    _report_oddities(oddities, path, findings)
    entries = {key: texts for key in _SPLIT_KEYS if (texts := _entry_texts(doc.get(key)))}
    root = _find_root(path.parent, doc.get("path"))
    _report_unknown_keys(doc, root, path, findings)
    names = yaml_names(doc, path, findings)
    if not entries:
        message = "names no images: it has none of train, val and test"
        findings.add("error", "split-missing", path, "", message, "Add train: and val:")
    task = str(doc.get("task") or "").strip().lower()
    kpt_shape = _read_kpt_shape(doc.get("kpt_shape"), path, findings)
    return YoloLayout(path.parent, root, entries, names, kpt_shape=kpt_shape, task=task)


def _report_oddities(oddities: YamlOddities, path: Path, findings: Findings) -> None:
    for tag, line in oddities.tags:
        message = f"the tag {tag[:60]} is not executed; what it marks is read as plain YAML"
        findings.add("warning", "yaml-tag", path, f"line {line}", message, "Remove the tag, and check where it is from")
    if oddities.tabs:
        message = "tabs indent it, which YAML does not allow; they are read as spaces"
        findings.add("warning", "yaml-tabs", path, f"line {oddities.tabs}", message, "Indent it by spaces")
    for key, line in oddities.repeated:
        message = f"the key {key[:40]!r} occurs twice; the last one counts"
        findings.add("warning", "yaml-key-repeated", path, f"line {line}", message, "Remove one of them")


def _report_unknown_keys(doc: dict[str, Any], root: Path, path: Path, findings: Findings) -> None:
    """A finding for each key that is no key of a data.yaml but names a folder or list, as a misspelled ``val`` does."""
    for key, value in doc.items():
        if key in _KEYS:
            continue
        texts = [t for t in _entry_texts(value) if "\0" not in t and len(t) < 1024]
        there = [t for t in texts if any((base / t).exists() for base in (root, path.parent))]
        if there or (texts and str(key).strip().lower() in (*_SPLIT_KEYS, *_OTHER_SPLITS, "names", "path")):
            message = f"the key {str(key)[:40]!r} is unknown; its {texts[0][:60]!r} is not used"
            findings.add("warning", "yaml-key-unknown", path, str(key)[:40], message, nearest(str(key), _SPLIT_KEYS))


def _read_kpt_shape(value: object, path: Path, findings: Findings) -> tuple[int, int] | None:
    if value in (None, "", "null", "~", []):
        return None
    numbers = [number(v) for v in value] if isinstance(value, list) else []
    if len(numbers) == 2 and numbers[0] is not None and numbers[0] in range(1, 10_000) and numbers[1] in (2.0, 3.0):
        return int(numbers[0]), 2 if numbers[1] == 2.0 else 3
    message = f"kpt_shape is {str(value)[:40]}, expected the number of keypoints and 2 or 3; it is ignored"
    findings.add("warning", "kpt-shape-invalid", path, "kpt_shape", message, "Write kpt_shape: [17, 3]")
    return None


def name_classes(names: Sequence[str], path: Path, findings: Findings) -> YoloClasses:
    """The classes of the ``names`` in the file ``path``."""
    unique, labels = unique_names(names, path, findings)
    return YoloClasses(tuple(unique), tuple(labels), tuple(names))


def _find_root(here: Path, value: object) -> Path:
    """The folder ``path`` of the yaml, relative to the yaml's folder; the latter where it does not exist."""
    if isinstance(value, str) and value.strip() and "\0" not in value:
        for root in (here / value.strip(), here / Path(value.strip()).name):
            if root.is_dir():
                return root
    return here


def _entry_texts(value: object) -> list[str]:
    """The folders and text files of a split."""
    entries = value if isinstance(value, list) else [value]
    return [e.strip() for e in entries if isinstance(e, str) and e.strip() not in ("", "null", "~", "None")]
