"""YOLO: an Ultralytics ``data.yaml`` and one text file an image, a line ``class cx cy w h`` in fractions of its size.

Where files lie follows Ultralytics' rules (https://docs.ultralytics.com/datasets/detect, read as documented): a split
is a folder, a text file of image paths, or a list of these; the last ``images`` folder of an image's path becomes
``labels``. An image without a text file has no objects.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...files.reading import Unreadable, read_lines, read_text, read_yaml
from ..images.index import ImageIndex
from ..records.dataset import Dataset, Record
from ..records.findings import Findings
from .validate import Object, SizeCache, build_record, number, report_refused, unique_names

FLAGS = "flags.json"  # ours: which lines are crowd or difficult, which YOLO cannot say
_KEYS = ("train", "val", "valid", "test", "trainval")  # the last one is ours
_NOT_LABELS = {"classes.txt", "labels.txt", "predefined_classes.txt"}


@dataclass
class YoloSource:
    """One ``data.yaml``. ``images`` is where the images lie, if not where the file says."""

    path: Path  # the yaml file
    images: Path | None = None
    format: str = "yolo"
    splits: tuple[str, ...] = field(init=False, default=())
    prober: SizeCache = field(default_factory=SizeCache)

    def __post_init__(self) -> None:
        self.early = Findings()
        self._names: list[str] = []
        self._place: list[int] = []
        self._entries: dict[str, list[str]] = {}
        self._root = self.path.parent
        self._listings: dict[Path, set[str]] = {}
        try:
            doc = read_yaml(self.path)
            if not isinstance(doc, dict):
                raise Unreadable("expected keys and values (train, val, names)", "See the Ultralytics format")
        except Unreadable as error:
            self.early.add("error", "annotation-unreadable", self.path, "", error.message, error.fix)
            return
        self._root = self._data_root(doc.get("path"))
        for key in _KEYS:
            value = doc.get(key)
            entries = value if isinstance(value, list) else [value]
            texts = [e.strip() for e in entries if isinstance(e, str) and e.strip() not in ("", "null", "~", "None")]
            if texts:
                self._entries[key] = texts
        self.splits = tuple(self._entries)
        self._classes(doc)
        if not self._entries:
            message = "names no images: none of train, val and test is there"
            self.early.add("error", "split-missing", self.path, "", message, "Add train: and val:")
        self._flags = self._read_flags()

    def _data_root(self, value: object) -> Path:
        """``path`` of the yaml, beside the yaml first; the yaml's own folder where it leads nowhere."""
        here = self.path.parent
        if isinstance(value, str) and value.strip() and "\0" not in value:
            for root in (here / value.strip(), here / Path(value.strip()).name):
                if root.is_dir():
                    return root
        return here

    def _classes(self, doc: dict[str, Any]) -> None:
        names, nc = doc.get("names"), doc.get("nc")
        listed: list[object] | None = None
        if isinstance(names, list):
            listed = names
        elif isinstance(names, dict):
            numbers = [number(k) for k in names]
            if sorted(n for n in numbers if n is not None) == list(range(len(names))) and None not in numbers:
                listed = [
                    value for _, value in sorted(zip(numbers, names.values(), strict=True), key=lambda p: p[0] or 0)
                ]
            else:
                keys = ", ".join(str(k)[:20] for k in list(names)[:10])
                self._error(
                    "classes-invalid", "names", f"its numbers are {keys}; expected 0, 1, 2, ...", "Number them so"
                )
                return
        count = number(nc)
        if listed is None and names is None and count is not None and 0 < count <= 100_000:
            message = f"there are no names; the {int(count)} classes are called class_0, class_1, ..."
            self.early.add("warning", "classes-missing", self.path, "names", message, "Add names:")
            listed = [f"class_{k}" for k in range(int(count))]
        if not listed:
            self._error("classes-missing", "names", "there is no list of class names", "Add names: [first, second]")
            return
        if not all(isinstance(name, str) and name.strip() for name in listed):
            self._error("classes-invalid", "names", "a name is empty or no text", "Give every class a name")
            return
        self._names, self._place = unique_names([str(n).strip() for n in listed], self.path, self.early)
        if nc is not None and count != len(listed):
            message = f"nc is {str(nc)[:40]}, but there are {len(listed)} names"
            self._error("class-count", "nc", message, "Correct nc or names; which class is which is not certain")

    def _error(self, code: str, where: str, message: str, fix: str) -> None:
        self.early.add("error", code, self.path, where, message, fix)

    def _read_flags(self) -> dict[str, Any]:
        file = self.path.parent / FLAGS
        try:
            doc = json.loads(file.read_bytes()) if file.is_file() else {}
        except (OSError, ValueError, RecursionError):
            self.early.add("warning", "flags-unreadable", file, "", "not valid JSON; no object is crowd or difficult")
            doc = {}
        return doc if isinstance(doc, dict) else {}

    # ----------------------------------------------------------------------------------------------- reading
    def read(self, split: str | None = None) -> Dataset:
        """Records of a split (one of ``splits``), or of the whole set."""
        findings = Findings(self.early)
        records: list[Record] = []
        done: set[Path] = set()
        stems: dict[str, int] = {}
        folders: set[Path] = set()
        named = self.splits if split is None else (split,)
        for name in named:
            images = list(self._images(name, findings))
            labels_there = False
            for image in images:
                label = self._label_path(image)
                labels_there = labels_there or label.parent.is_dir()
                if image in done:
                    continue
                done.add(image)
                stems[image.stem] = stems.get(image.stem, 0) + 1
                size = self.prober.check_size(image, None, self.path, findings)
                if size is not None:
                    there = label.is_file()
                    objects = list(self._objects(label, size, findings)) if there else []
                    source = label if there else None
                    records.append(build_record(image.stem, image, size, objects, source, findings))
            if images and not labels_there and self._names:
                place = self._label_path(images[0]).parent
                message = f"no labels are there for the {len(images)} images of {name!r}; all are without objects"
                findings.add("warning", "labels-missing", place, "", message, "Put the text files there")
            self._orphans(images, folders, findings)
        for record in records:
            if stems[str(record.id)] > 1:
                record.id = self._relative(record.path)
        return Dataset(tuple(self._names), records, list(findings), self.path, self.format, split, splits=self.splits)

    def _relative(self, image: Path) -> str:
        relative = os.path.relpath(image, self.images or self._root)
        return Path(relative).with_suffix("").as_posix()

    def _images(self, split: str, findings: Findings) -> Iterator[Path]:
        """The images of a split, each once, sorted within a folder and in the order of a list."""
        seen: set[Path] = set()
        for entry in self._entries[split]:
            place = self._place_of(entry)
            if place is None:
                where = self._root / entry.replace("\0", "?")
                message = f"{self.path} names it as {split!r}, but it is not there"
                fix = "Correct the path, or give --images DIR"
                findings.add("error", "split-missing", where, "", message, fix)
                continue
            index = ImageIndex(place)
            report_refused(index.refused, findings)
            listed: Iterator[Path] = iter(sorted(index.paths))
            if place.is_file():
                listed = self._listed(place, findings)
            empty = True
            for image in listed:
                empty = False
                if image in seen:
                    message = f"listed twice in {split!r}; used once"
                    findings.add("warning", "image-repeated", image, "", message, "Remove the repeat")
                    continue
                seen.add(image)
                yield image
            if empty:
                findings.add("warning", "split-empty", place, "", f"the split {split!r} has no image here")

    def _place_of(self, entry: str) -> Path | None:
        """The folder or list that an entry of the yaml means; Roboflow's ``../train/images`` may lie below."""
        if "\0" in entry:
            return None
        tries = [self._root / entry, self.path.parent / entry]
        trimmed = entry.replace("\\", "/")
        while trimmed.startswith(("../", "./")):
            trimmed = trimmed.partition("/")[2]
            tries += [self._root / trimmed, self.path.parent / trimmed]
        if self.images is not None:
            parts = [p for p in trimmed.split("/") if p]
            tries += [self.images.joinpath(*parts[k:]) for k in range(len(parts) + 1)]
        for place in tries:
            try:
                if place.exists() and (place.is_dir() or place.suffix.lower() == ".txt"):
                    return Path(os.path.normpath(place)) if ".." in place.parts else place
            except OSError:
                continue
        return None

    def _listed(self, file: Path, findings: Findings) -> Iterator[Path]:
        """Image paths of a text file: below its own folder, below the root, or absolute."""
        try:
            lines = read_lines(file)
        except Unreadable as error:
            findings.add("error", "split-unreadable", file, "", error.message, error.fix)
            return
        index: ImageIndex | None = None
        for n, line in enumerate(lines, 1):
            text = line.replace("\\", "/")
            tries = [base / text for base in (file.parent, self._root, self.images) if base is not None]
            found = next((p for p in tries if "\0" not in text and len(text) < 4096 and p.is_file()), None)
            if found is None:
                index = index or ImageIndex(self.images or self._root)
                named = index.named(text)
                found = named[0] if len(named) == 1 else None
            if found is None:
                place = self._root / Path(text.replace("\0", "?"))
                message = f"{file} names it (line {n}), but it is not there; left out"
                findings.add("warning", "image-missing", place, "", message, "Put it there or correct the list")
                continue
            yield Path(os.path.normpath(found))

    def _label_path(self, image: Path) -> Path:
        """The last folder ``images`` of the path becomes ``labels``; without one the text file lies beside."""
        parts = list(image.parts)
        for k in range(len(parts) - 2, -1, -1):
            if parts[k] == "images":
                mirrored = Path(*parts[:k], "labels", *parts[k + 1 :]).with_suffix(".txt")
                beside = image.with_suffix(".txt")
                return beside if beside.is_file() and not mirrored.is_file() else mirrored
        if self.images is not None:  # images were moved away, the labels were not
            for entries in self._entries.values():
                for entry in entries:
                    moved = self._root / Path(entry.replace("images", "labels")) / f"{image.stem}.txt"
                    if moved.is_file():
                        return moved
        return image.with_suffix(".txt")

    def _orphans(self, images: list[Path], done: set[Path], findings: Findings) -> None:
        """Label files without an image, in the folders of these images' labels."""
        have = {self._label_path(image) for image in images}
        for folder in sorted({label.parent for label in have}):
            mirrored = "labels" in folder.parts
            if not folder.is_dir() or not mirrored or folder in done:
                continue
            done.add(folder)
            for label in sorted(folder.glob("*.txt")):
                if label not in have and label.name not in _NOT_LABELS and not self._belongs(label):
                    message = "a label file without an image; not used"
                    findings.add("warning", "image-missing", label, "", message, "Add the image or remove the labels")

    def _belongs(self, label: Path) -> bool:
        """Whether an image of another split may own this label file (lists share one folder)."""
        parts = list(label.parts)
        k = len(parts) - 1 - parts[::-1].index("labels")
        folder = Path(*parts[:k], "images", *parts[k + 1 : -1])
        if folder not in self._listings:
            names = os.listdir(folder) if folder.is_dir() else []
            self._listings[folder] = {os.path.splitext(name)[0] for name in names}
        return label.stem in self._listings[folder]

    # ----------------------------------------------------------------------------------------------- objects
    def _objects(self, label: Path, size: tuple[int, int], findings: Findings) -> Iterator[Object]:
        try:
            text, _ = read_text(label)
        except Unreadable as error:
            findings.add("error", "annotation-unreadable", label, "", error.message, error.fix)
            return
        if not self._names:
            return
        flags = self._flags.get(os.path.relpath(label, self.path.parent).replace(os.sep, "/")) or {}
        for n, line in enumerate(text.splitlines(), 1):
            if line.strip():
                made = self._line(line.split(), n, label, size, findings)
                if made is not None:
                    made.crowd = n in _numbers(flags, "crowd")
                    made.difficult = n in _numbers(flags, "difficult")
                    yield made

    def _line(
        self, columns: list[str], n: int, label: Path, size: tuple[int, int], findings: Findings
    ) -> Object | None:
        where = f"line {n}"
        polygon = len(columns) >= 7 and len(columns) % 2 == 1
        if len(columns) != 5 and not polygon:
            hint = " (with a confidence: these are detections?)" if len(columns) == 6 else ""
            message = f"{len(columns)} columns, expected class and four numbers{hint}"
            findings.add("error", "line-columns", label, where, message, "Correct or remove the line")
            return None
        values = [number(c) for c in columns]
        if any(v is None for v in values[1:]):
            bad = next(c for c, v in zip(columns[1:], values[1:], strict=True) if v is None)
            findings.add("warning", "box-not-number", label, where, f"{bad[:40]!r} is no number; dropped", "Correct it")
            return None
        k = values[0]
        if k is None or not math.isfinite(k) or k != int(k) or not 0 <= k < len(self._place):
            message = f"the class {columns[0][:40]!r} is not one of 0..{len(self._place) - 1}; dropped"
            findings.add("warning", "class-unknown", label, where, message, "Correct it, or add its name to the yaml")
            return None
        place = self._place[int(k)]
        where += f" ({self._names[place]})"
        width, height = size
        v = [x for x in values[1:] if x is not None]
        if polygon:
            xs, ys = v[0::2], v[1::2]
            box = (min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height)
            if all(map(math.isfinite, v)):
                message = f"a polygon of {len(xs)} points; its box is used"
                findings.add("note", "polygon-line", label, where, message)
            else:
                box = (math.nan,) * 4
        else:
            cx, cy, w, h = v
            box = ((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)
        shown = " ".join(columns[1:]) if len(columns) == 5 else f"of the polygon {' '.join(columns[1:7])} ..."
        if max(v, default=0) > 2 and all(map(math.isfinite, v)):
            shown += " (these look like pixels, expected fractions of the image)"
        return Object(box, place, where, shown)


def _numbers(flags: object, key: str) -> set[int]:
    value = flags.get(key) if isinstance(flags, dict) else None
    return {n for n in value if isinstance(n, int)} if isinstance(value, list) else set()
