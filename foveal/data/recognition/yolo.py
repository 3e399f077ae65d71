"""Finds the YOLO datasets that a file describes: a ``data.yaml``, or Darknet's ``.data``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...files.reading import Unreadable, read_lines, read_yaml
from ..formats.class_list import CLASS_FILES, read_class_list
from ..formats.yolo.layout import YoloLayout
from ..formats.yolo.reader import YoloSource
from ..records.findings import Findings
from .class_files import names_in_yaml
from .listing import Listing, folder_above

_PLAIN_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}  # keys of a .data file
_KEYS = frozenset({"classes", "train", "valid", "val", "test", "names", "backup", "eval", "results", "labels", "top"})
_ABOVE = 3  # folders above a .data file below which its paths may begin


def find_yaml(listing: Listing, images: Path | None) -> list[YoloSource]:
    """The datasets that a yaml describes."""
    by_folder: dict[Path, list[Path]] = {}
    for file in filter(_is_data_yaml, listing.yamls):
        by_folder.setdefault(file.parent, []).append(file)
    sources: list[YoloSource] = []
    for same in by_folder.values():
        plain = [file for file in same if file.name in _PLAIN_NAMES]
        sources += [YoloSource(file, images) for file in (plain[:1] or same)]
    for source in sources:
        _report_other_names(listing, source)
    return sources


def _report_other_names(listing: Listing, source: YoloSource) -> None:
    """A finding for each list of classes among the labels, or beside the yaml, that is not the yaml's."""
    try:
        names = names_in_yaml(source.path)
    except (OSError, Unreadable):  # told when it is read
        return
    lists = [folder / name for folder, of in listing.texts.items() for name in of if name.lower() in CLASS_FILES]
    for file in lists if names else ():
        if source.path.parent not in file.parents:
            continue
        try:
            other = read_class_list(file, Findings())
        except Unreadable:
            continue
        if any(a != b for a, b in zip(names, other, strict=False)):
            message = f"its class names differ from those in {source.path}, which are used"
            source.findings.add("warning", "classes-differ", file, "", message, "Remove the list that is wrong")


def _is_data_yaml(file: Path) -> bool:
    if file.name in _PLAIN_NAMES:
        return True
    try:
        if file.stat().st_size > 1 << 20:
            return False
        doc: Any = read_yaml(file)
    except (OSError, Unreadable):
        return False
    return isinstance(doc, dict) and ("names" in doc or "nc" in doc) and bool({"train", "val", "test"} & doc.keys())


def find_darknet(listing: Listing, images: Path | None) -> list[YoloSource]:
    """The datasets that a Darknet ``.data`` file describes."""
    return [open_darknet(file, images) for file in listing.darknet if {"train", "valid"} & _options(file).keys()]


def open_darknet(file: Path, images: Path | None) -> YoloSource:
    """The dataset of one ``.data`` file: ``train``, ``valid`` and ``names`` are paths from wherever Darknet was run."""
    findings = Findings()
    options = _options(file, findings)
    located: dict[str, Path | str] = {}
    found: list[Path] = []
    for key, split in _SPLITS.items():
        if not (text := options.get(key)):
            continue
        path = _locate(file, text)
        if path is not None:
            found.append(path)
        located[split] = path or text
    if not located:
        message = "names no images: it has neither train nor valid"
        findings.add("error", "split-missing", file, "", message, "Add train = train.txt")
    names, named_in = _names(file, options, findings)
    root = folder_above([file.parent, *(path if path.is_dir() else path.parent for path in found)])
    entries = {
        split: [os.path.relpath(path, root) if isinstance(path, Path) else path] for split, path in located.items()
    }
    source = YoloSource(file, images, YoloLayout(file.parent, root, entries, names, named_in))
    source.findings.extend(findings)
    return source


def _options(file: Path, findings: Findings | None = None) -> dict[str, str]:
    """The lines ``key = value`` of a .data file; others become findings."""
    try:
        lines = read_lines(file)
    except Unreadable:
        return {}
    options: dict[str, str] = {}
    for n, line in enumerate(lines, 1):
        key, equals, value = line.partition("=")
        key = key.strip().lower()
        if equals and key:
            options[key] = value.strip()
        if findings is not None and not line.startswith(("#", ";")) and (not equals or key not in _KEYS):
            message = f"{line[:60]!r} is not understood; ignored"
            findings.add("warning", "line-unknown", file, f"line {n}", message, "Correct or remove the line")
    return options


def _names(file: Path, options: dict[str, str], findings: Findings) -> tuple[list[str], Path | None]:
    """The class names of a .data file, and the file that has them."""
    text = options.get("names", "")
    path = _locate(file, text) if text else None
    if path is None or not path.is_file():
        what = f"the names {text!r} do not exist" if text else "there is no list of class names"
        findings.add("error", "classes-missing", file, "names", what, "Add names = obj.names, with one name a line")
        return [], None
    try:
        names = read_class_list(path, findings, lambda lines: len(lines) == 1 and options.get("classes") == "1")
    except Unreadable as error:
        findings.add("error", "classes-unreadable", path, "", error.message, error.fix)
        return [], path
    if not names:
        findings.add("error", "classes-missing", path, "", "lists no class", "Write one name a line")
    stated = options.get("classes")
    if stated and stated != str(len(names)) and names:
        message = f"classes is {stated[:40]}, but {path} has {len(names)} names"
        findings.add("warning", "class-count", file, "classes", message, "Correct one of them")
    return names, path


def _locate(file: Path, text: str) -> Path | None:
    """The file or folder of a .data file's entry: the longest end of its path that exists near the file."""
    return next((path for path in _candidates(file, text) if path.exists()), None)


def _candidates(file: Path, text: str) -> Iterator[Path]:
    if "\0" in text:
        return
    if Path(text).is_absolute():
        yield Path(text)
    parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for k in range(len(parts)):
        for base in (file.parent, *list(file.parents)[1 : 1 + _ABOVE]):
            yield base.joinpath(*parts[k:])
