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
from functools import cached_property
from pathlib import Path
from typing import Any

from ....files.reading import Unreadable, read_lines
from ...images.index import ImageIndex
from ...images.lookup import NameMatch, Wanted
from ...images.names import EXACT
from ...records.convention import Convention
from ...records.dataset import Dataset, Record
from ...records.findings import Findings
from ..source import Reader, Source
from ..validate import ParsedObject, number, report_refused
from .entries import locate, locate_elsewhere
from .files import LabelFiles
from .labels import LabelText, LineParser, read_label_text
from .layout import YoloLayout, name_classes, read_layout
from .lines import Line, class_last, with_class_first
from .shapes import Shapes, find_shapes
from .tally import LineTally
from .unused import find_unlisted, report_orphans

FLAGS = "flags.json"  # written by foveal: which lines are crowd or difficult, which YOLO has no notation for


class YoloSource(Source):
    """One ``data.yaml`` at ``path``; ``image_folder`` holds the images if they were moved elsewhere.

    Data without a yaml gives its ``layout``; ``path`` is then what messages call it. The images are always opened, for
    their size turns fractions into pixels.
    """

    format = "yolo"
    native = Convention("centers", "fractions")

    def __init__(self, path: Path, image_folder: Path | None = None, layout: YoloLayout | None = None) -> None:
        super().__init__(path, (image_folder or path.parent,))
        self.image_folder = image_folder
        layout = read_layout(path, self.findings) if layout is None else layout
        self.home, self.root, self.entries = layout.home, layout.root, layout.entries
        self.layout, self.nested = layout, layout.nested
        self.image_roots = (image_folder or self.root,)
        self.label_files = LabelFiles(layout.label_folders, self._moved_labels())
        self.splits = tuple(split for split in self.entries if split)
        self.classes = name_classes(layout.names, layout.named_in or path, self.findings)
        self.flags = _read_flags(self.home / FLAGS, self.findings)
        self._texts: dict[Path, LabelText | Unreadable] = {}

    def read(self, split: str | None = None) -> Dataset:
        assert self.places is not None  # what it finds is in the findings that every read begins with
        return YoloReader(self, split).read()

    @cached_property
    def places(self) -> dict[str, Path | None]:
        """The folder or text file of each entry."""
        found: dict[str, Path | None] = {}
        for entry in dict.fromkeys(entry for of_split in self.entries.values() for entry in of_split):
            bases = list(dict.fromkeys((self.root, self.home)))
            found[entry] = locate(entry, bases, self.image_folder)
            other = locate_elsewhere(entry, bases) if found[entry] is None else None
            if other is not None:
                message = f"{entry[:200]!r} does not exist; {other} is used"
                self.findings.add("warning", "split-elsewhere", self.path, "", message, "Correct the path")
                found[entry] = other
        return found

    def label_text(self, label: Path) -> LabelText | Unreadable:
        """The content of a label file, read once."""
        if label not in self._texts:
            try:
                self._texts[label] = read_label_text(label, self.classes)
            except Unreadable as error:
                self._texts[label] = error
        return self._texts[label]

    def all_images(self) -> list[Path]:
        """The images of all splits."""
        return [image for split in self.entries for image in YoloReader(self, split).images(split)]

    @cached_property
    def shapes(self) -> Shapes:
        """What the lines of more than five columns are, decided by all label files of all splits."""
        numbers: list[list[float]] = []
        for label in {m.paths[0] for m in self.label_files.find(self.all_images()).values() if len(m.paths) == 1}:
            text = self.label_text(label)
            for line in text.lines if isinstance(text, LabelText) else ():
                values = [number(column) for column in line.columns]
                if not line.doubt and None not in values:
                    numbers.append([v for v in values if v is not None])
        return find_shapes(numbers, self.layout.kpt_shape, self.layout.task)

    @property
    def lists(self) -> set[Path]:
        """The text files that list images."""
        return {path for path in self.places.values() if path is not None and path.is_file()}

    @property
    def folders(self) -> set[Path]:
        """The folders of images that are splits."""
        return {path for path in self.places.values() if path is not None and path.is_dir()}

    def _moved_labels(self) -> list[Path]:
        """The folders of labels that stayed where they were when the images were moved elsewhere."""
        if self.image_folder is None:
            return []
        entries = [entry for of_split in self.entries.values() for entry in of_split]
        return [self.root / entry.replace("images", "labels") for entry in entries]

    def flags_of(self, label: Path) -> object:
        """The entry of a label file in ``flags.json``."""
        return self.flags.get(os.path.relpath(label, self.home).replace(os.sep, "/"))


class YoloReader(Reader[YoloSource]):
    """One read of a YOLO dataset."""

    def records(self) -> list[Record]:
        source = self.source
        self.classes = source.classes.names
        self.evidence.class_names = dict(enumerate(source.classes.listed))
        images: dict[Path, None] = {}  # in order, each once
        for split in source.entries if self.split is None else (self.split,):
            images |= dict.fromkeys(self.images(split))
        labels = self._label_files(list(images))
        lines = {image: read for image, label in labels.items() if (read := self._lines(label)) is not None}
        if class_last((line for read in lines.values() for line in read), len(source.classes.label_of)):
            lines = {image: [with_class_first(line) for line in read] for image, read in lines.items()}
        shapes = Shapes()
        if any(len(line.columns) != 4 for read in lines.values() for line in read):
            shapes = source.shapes
        tally = LineTally()
        parser = LineParser(source.classes, shapes, source.reading(), self.findings, tally)
        records = [r for i in images if (r := self._read_image(i, labels.get(i), lines.get(i), parser)) is not None]
        tally.report(shapes, self.findings)
        self.evidence.class_numbers = tally.numbers
        text_of = self.source.label_text
        used = set(labels.values()) | source.lists
        report_orphans(source.label_files, images, used, text_of, self.evidence, self.findings)
        if source.path.is_file():  # else all folders were looked through
            self.evidence.unlisted = find_unlisted(source.folders, source.lists, source.all_images)
        count = Counter(image.stem for image in images)
        for record in records:
            if count[str(record.id)] > 1:
                relative = os.path.relpath(record.path, source.image_folder or source.root)
                record.id = Path(relative).with_suffix("").as_posix()
        return records

    def images(self, split: str) -> Iterator[Path]:
        """The images of a split, each once, sorted within a folder and in the order of a list."""
        seen: set[Path] = set()
        for entry in self.source.entries[split]:
            path = self.source.places[entry]
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

    def _read_image(
        self, image: Path, label: Path | None, lines: list[Line] | None, parser: LineParser
    ) -> Record | None:
        size = self.image_size(image, None, self.source.path)
        if size is None:
            return None
        objects: list[ParsedObject] = []
        if label is not None and lines is not None:
            objects = list(parser.objects(label, lines, size, self.source.flags_of(label)))
        return self.record(image.stem, image, size, objects, label)

    # ------------------------------------------------------------------------------------------ label files
    def _label_files(self, images: list[Path]) -> dict[Path, Path]:
        """The label file of each image that has one; the evidence gets the others, and ambiguities become findings."""
        labels: dict[Path, Path] = {}
        image_of: dict[Path, Path] = {}
        ways: dict[str, list[tuple[str, Path, Path]]] = {}  # code -> how, image, label file
        found = self.source.label_files.find(images)
        for image in images:
            match = found.get(image)
            label = None if match is None else self._accepted(image, match)
            if match is None or label is None:
                self.evidence.unlabeled.append(image)
                continue
            if match.way != EXACT:
                ways.setdefault(match.way.code, []).append((match.way.phrase, image, label))
            if label in image_of:
                message = f"it belongs to {image_of[label].name} and to {image.name}, which both get its objects"
                self.findings.add("warning", "label-shared", label, "", message, "Remove one of the images")
            image_of[label] = image
            labels[image] = label
        self.evidence.labeled = len(labels)
        for code, same in ways.items():
            how, image, label = same[0]
            message = f"{len(same)} label file{'s were' if len(same) > 1 else ' was'} found {how}, first: "
            message += f"{label.name} is that of {image.name}"
            self.findings.add("note", code, label, "", message, "Correct the names if this is wrong")
        return labels

    def _accepted(self, image: Path, match: NameMatch) -> Path | None:
        first, *others = match.paths
        if others or match.rivals:
            listed = " and ".join(map(str, match.paths))
            message = f"the label files {listed} fit it equally well; its objects are not read"
            if match.rivals:
                message = f"{first} fits it and {match.rivals[0]} equally well; its objects are not read"
            self.findings.add("error", "label-ambiguous", image, "", message, "Rename the label file like its image")
            return None
        if match.passed:
            message = f"{match.passed[0].name} in the same folder belongs to the same image; this one is used"
            self.findings.add("warning", "label-ambiguous", first, "", message, "Remove one of them")
        return first

    def _lines(self, label: Path) -> list[Line] | None:
        """The lines of a label file; ``None``, and a finding, where it cannot be read."""
        text = self.source.label_text(label)
        if isinstance(text, Unreadable):
            self.findings.add("error", "annotation-unreadable", label, "", text.message, text.fix)
            return None
        if not text.lines:
            self.evidence.blank.append(label)
        if text.cut_off:
            where, message = f"line {text.lines[-1].n}", "the file ends within a number: objects may be missing"
            self.findings.add("warning", "label-cut-off", label, where, message, "Export or copy it again")
        return text.lines


def _read_flags(file: Path, findings: Findings) -> dict[str, Any]:
    """The content of ``flags.json``, if it exists."""
    try:
        doc = json.loads(file.read_bytes()) if file.is_file() else {}
    except (OSError, ValueError, RecursionError):
        message = "not valid JSON; no object is crowd or difficult"
        findings.add("warning", "flags-unreadable", file, "", message, "Export it again")
        doc = {}
    return doc if isinstance(doc, dict) else {}
