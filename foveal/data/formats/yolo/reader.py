"""YOLO: an Ultralytics ``data.yaml`` and one text file of labels for each image (see ``labels.py``).

Files are located by Ultralytics' rules (https://docs.ultralytics.com/datasets/detect, read as documented): a split is
a folder, a text file of image paths, or a list of these; the last ``images`` folder of an image's path becomes
``labels``. An image without a text file has no objects.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ....files.reading import Unreadable, read_lines
from ...images.index import ImageIndex
from ...images.lookup import Wanted
from ...records.dataset import Dataset, Record
from ...records.findings import Findings
from ..class_list import CLASS_FILES
from ..source import Reader, Source
from ..validate import build_record, report_refused
from .labels import read_objects
from .layout import YoloLayout, name_classes, read_layout

FLAGS = "flags.json"  # written by foveal: which lines are crowd or difficult, which YOLO has no notation for


class YoloSource(Source):
    """One ``data.yaml`` at ``path``; ``image_folder`` holds the images if they were moved elsewhere.

    Data without a yaml gives its ``layout``; ``path`` is then what messages call it. The images are always opened, for
    their size turns fractions into pixels.
    """

    format = "yolo"

    def __init__(self, path: Path, image_folder: Path | None = None, layout: YoloLayout | None = None) -> None:
        super().__init__(path, (image_folder or path.parent,))
        self.image_folder = image_folder
        layout = read_layout(path, self.findings) if layout is None else layout
        self.home, self.root, self.entries = layout.home, layout.root, layout.entries
        self.label_folders, self.nested = layout.label_folders, layout.nested
        self.image_roots = (image_folder or self.root,)
        self.splits = tuple(split for split in self.entries if split)
        self.classes = name_classes(layout.names, layout.named_in or path, self.findings)
        self.flags = _read_flags(self.home / FLAGS, self.findings)

    def read(self, split: str | None = None) -> Dataset:
        return YoloReader(self, split).read()

    def locate(self, entry: str) -> Path | None:
        """The folder or text file that an entry of a split names; Roboflow's ``../train/images`` may be below."""
        if "\0" in entry:
            return None
        candidates = [self.root / entry, self.home / entry]
        trimmed = entry.replace("\\", "/")
        while trimmed.startswith(("../", "./")):
            trimmed = trimmed.partition("/")[2]
            candidates += [self.root / trimmed, self.home / trimmed]
        if self.image_folder is not None:
            parts = [p for p in trimmed.split("/") if p]
            candidates += [self.image_folder.joinpath(*parts[k:]) for k in range(len(parts) + 1)]
        for path in candidates:
            try:
                if path.exists() and (path.is_dir() or path.suffix.lower() == ".txt"):
                    return Path(os.path.normpath(path)) if ".." in path.parts else path
            except OSError:
                continue
        return None

    def label_file(self, image: Path) -> Path:
        """The last folder ``images`` of the path becomes ``labels``; without one the text file is beside the image.

        A folder of ``label_folders`` decides before these rules.
        """
        if image.parent in self.label_folders:
            return self.label_folders[image.parent] / f"{image.stem}.txt"
        parts = list(image.parts)
        for k in range(len(parts) - 2, -1, -1):
            if parts[k] == "images":
                mirrored = Path(*parts[:k], "labels", *parts[k + 1 :]).with_suffix(".txt")
                beside = image.with_suffix(".txt")
                return beside if beside.is_file() and not mirrored.is_file() else mirrored
        if self.image_folder is not None:  # the images were moved elsewhere, the labels were not
            for entry in (entry for entries in self.entries.values() for entry in entries):
                moved = self.root / Path(entry.replace("images", "labels")) / f"{image.stem}.txt"
                if moved.is_file():
                    return moved
        return image.with_suffix(".txt")

    def flags_of(self, label: Path) -> object:
        """The entry of a label file in ``flags.json``."""
        return self.flags.get(os.path.relpath(label, self.home).replace(os.sep, "/"))


class YoloReader(Reader[YoloSource]):
    """One read of a YOLO dataset."""

    def records(self) -> list[Record]:
        self.classes = self.source.classes.names
        self._folder_stems: dict[Path, set[str]] = {}  # folder of images -> their names without extension
        checked: set[Path] = set()
        images: dict[Path, None] = {}  # in order, each once
        records: list[Record] = []
        for split in self.source.entries if self.split is None else (self.split,):
            of_split = list(self._images(split))
            for image in of_split:
                record = self._read_image(image) if image not in images else None
                images[image] = None
                if record is not None:
                    records.append(record)
            self._report_no_labels(of_split, split)
            self._report_orphans(of_split, checked)
        count = Counter(image.stem for image in images)
        for record in records:
            if count[str(record.id)] > 1:
                relative = os.path.relpath(record.path, self.source.image_folder or self.source.root)
                record.id = Path(relative).with_suffix("").as_posix()
        return records

    def _images(self, split: str) -> Iterator[Path]:
        """The images of a split, each once, sorted within a folder and in the order of a list."""
        seen: set[Path] = set()
        for entry in self.source.entries[split]:
            path = self.source.locate(entry)
            if path is None:
                expected = self.source.root / entry.replace("\0", "?")
                message = f"{self.source.path} names it as {split!r}, but it does not exist"
                fix = "Correct the path or give --images DIR"
                self.findings.add("error", "split-missing", expected, "", message, fix)
                continue
            empty = True
            for image in self._entry_images(path):
                empty = False
                if image in seen:
                    message = f"listed twice in {split!r}; used once"
                    self.findings.add("warning", "image-repeated", image, "", message, "Remove the repeat")
                    continue
                seen.add(image)
                yield image
            if empty:
                self.findings.add("warning", "split-empty", path, "", f"the split {split!r} has no image here")

    def _entry_images(self, path: Path) -> Iterable[Path]:
        if path.is_file():
            return self._listed_images(path)
        index = ImageIndex(path)
        report_refused(index.refused, self.findings)
        return sorted(p for p in index.paths if self.source.nested or p.parent == path)

    def _listed_images(self, file: Path) -> Iterator[Path]:
        """The images of a text file: relative to its own folder or to the root, or absolute."""
        try:
            lines = read_lines(file)
        except Unreadable as error:
            self.findings.add("error", "split-unreadable", file, "", error.message, error.fix)
            return
        source = self.source
        bases = [base for base in (file.parent, source.root, source.image_folder) if base is not None]
        images: list[Path | None] = []
        for line in lines:
            text = line.replace("\\", "/")
            valid = "\0" not in text and len(text) < 4096
            images.append(next((base / text for base in bases if valid and (base / text).is_file()), None))
        elsewhere = [(n, line) for n, line in enumerate(lines) if images[n] is None]
        matches = (
            source.images.match([Wanted(line) for _, line in elsewhere], [p for p in images if p]) if elsewhere else []
        )
        for (n, line), match in zip(elsewhere, matches, strict=True):
            expected = source.root / Path(line.replace("\\", "/").replace("\0", "?")[:4096])
            images[n] = self.accept(match, line, file, f"line {n + 1}", expected)
        for image in images:
            if image is not None:
                yield Path(os.path.normpath(image))

    def _read_image(self, image: Path) -> Record | None:
        size = self.image_size(image, None, self.source.path)
        if size is None:
            return None
        label: Path | None = self.source.label_file(image)
        objects = []
        if label is not None and label.is_file():
            flags = self.source.flags_of(label)
            objects = list(read_objects(label, size, self.source.classes, flags, self.findings))
        else:
            label = None
        return build_record(image.stem, image, size, objects, label, self.findings)

    def _report_no_labels(self, images: list[Path], split: str) -> None:
        """Where not even the folder of the labels exists, the paths are probably wrong."""
        if images and self.classes and not any(self.source.label_file(p).parent.is_dir() for p in images):
            folder = self.source.label_file(images[0]).parent
            message = f"the {len(images)} images of {split!r} have no label files; all count as images without objects"
            self.findings.add("warning", "labels-missing", folder, "", message, "Add the label files here")

    def _report_orphans(self, images: list[Path], checked: set[Path]) -> None:
        """Label files without an image, in the folders of these images' labels, which are added to ``checked``."""
        used = {self.source.label_file(image) for image in images}
        for folder in sorted({label.parent for label in used} - checked):
            if not folder.is_dir() or "labels" not in folder.parts:
                continue
            checked.add(folder)
            for label in sorted(folder.glob("*.txt")):
                if label not in used and label.name.lower() not in CLASS_FILES and not self._has_image(label):
                    message = "a label file without an image; not used"
                    fix = "Add the image or remove the label file"
                    self.findings.add("warning", "image-missing", label, "", message, fix)

    def _has_image(self, label: Path) -> bool:
        """Whether an image of another split may belong to this label file (lists of one folder)."""
        parts = list(label.parts)
        k = len(parts) - 1 - parts[::-1].index("labels")
        folder = Path(*parts[:k], "images", *parts[k + 1 : -1])
        if folder not in self._folder_stems:
            names = os.listdir(folder) if folder.is_dir() else []
            self._folder_stems[folder] = {os.path.splitext(name)[0] for name in names}
        return label.stem in self._folder_stems[folder]


def _read_flags(file: Path, findings: Findings) -> dict[str, Any]:
    """The content of ``flags.json``, if it exists."""
    try:
        doc = json.loads(file.read_bytes()) if file.is_file() else {}
    except (OSError, ValueError, RecursionError):
        message = "not valid JSON; no object is crowd or difficult"
        findings.add("warning", "flags-unreadable", file, "", message, "Export it again")
        doc = {}
    return doc if isinstance(doc, dict) else {}
