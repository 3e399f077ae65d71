"""What a YOLO dataset consists of: the images of each split and the class names, as a ``data.yaml`` states them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ....files.reading import Unreadable, read_yaml
from ...records.findings import Findings
from ..validate import number, unique_names
from .labels import YoloClasses

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


def read_layout(path: Path, findings: Findings) -> YoloLayout:
    """The layout that a ``data.yaml`` states; what is wrong with it becomes findings."""
    try:
        doc = read_yaml(path)
        if not isinstance(doc, dict):
            raise Unreadable("expected keys and values (train, val, names)", "See the Ultralytics format")
    except Unreadable as error:
        findings.add("error", "annotation-unreadable", path, "", error.message, error.fix)
        return YoloLayout(path.parent, path.parent)
    entries = {key: texts for key in _SPLIT_KEYS if (texts := _entry_texts(doc.get(key)))}
    names = _read_names(doc, path, findings)
    if not entries:
        message = "names no images: it has none of train, val and test"
        findings.add("error", "split-missing", path, "", message, "Add train: and val:")
    return YoloLayout(path.parent, _find_root(path.parent, doc.get("path")), entries, names)


def name_classes(names: Sequence[str], path: Path, findings: Findings) -> YoloClasses:
    """The classes of the ``names`` in the file ``path``."""
    unique, labels = unique_names(names, path, findings)
    return YoloClasses(tuple(unique), tuple(labels))


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


def _read_names(doc: dict[str, Any], path: Path, findings: Findings) -> list[str]:
    """The class names of the yaml; none, and an error, where they are missing or ambiguous."""

    def error(code: str, where: str, message: str, fix: str) -> list[str]:
        findings.add("error", code, path, where, message, fix)
        return []

    names, nc = doc.get("names"), doc.get("nc")
    count = number(nc)
    listed: list[object] = names if isinstance(names, list) else []
    if isinstance(names, dict):
        numbered = {number(key): value for key, value in names.items()}
        if set(numbered) != set(range(len(names))):
            keys = ", ".join(str(k)[:20] for k in list(names)[:10])
            message = f"the class numbers are {keys}, expected 0, 1, 2, ..."
            return error("classes-invalid", "names", message, "Number the classes from 0")
        listed = [numbered[k] for k in range(len(names))]
    if names is None and count is not None and 0 < count <= 100_000:
        message = f"there are no names; the {int(count)} classes are called class_0, class_1, ..."
        findings.add("warning", "classes-missing", path, "names", message, "Add names:")
        listed = [f"class_{k}" for k in range(int(count))]
    if not listed:
        return error("classes-missing", "names", "there is no list of class names", "Add names: [first, second]")
    if not all(isinstance(name, str) and name.strip() for name in listed):
        return error("classes-invalid", "names", "a name is empty or not a text", "Give every class a name")
    if nc is not None and count != len(listed):
        message = f"nc is {str(nc)[:40]}, but there are {len(listed)} names"
        error("class-count", "nc", message, "Correct nc or names, for the labels are ambiguous")
    return [str(name).strip() for name in listed]
