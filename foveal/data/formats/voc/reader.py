"""PASCAL VOC: devkit folders, and any images with VOC XML files beside them or in a folder of their own.

The split files (``ImageSets/Main/*.txt``) alone decide what is in a split. A listed image without an XML file has
unknown objects and is skipped. In ``SegmentationObject`` the pixels of the n-th object of an XML file have the value n.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from ....files.reading import Unreadable
from ...records.convention import Convention
from ...records.dataset import Dataset, Record
from ...records.findings import Findings
from ...records.splits import split_word
from ..class_list import read_class_list
from ..source import Reader, Source
from ..validate import unique_names
from .annotation import ObjectParser, stated_size
from .elements import XmlFile, read_file
from .images import match_images
from .splits import XmlIds, read_split_files


class VocSource(Source):
    """One VOC dataset: its XML files, the folder of its split files and its ``classes.txt``, if it has them."""

    format = "voc"
    native = Convention("corners")

    def __init__(
        self,
        path: Path,
        xml: Sequence[Path],
        image_roots: Iterable[Path],
        split_folder: Path | None = None,
        class_file: Path | None = None,
    ) -> None:
        super().__init__(path, image_roots)
        self.xml, self.split_folder, self.class_file = xml, split_folder, class_file
        self._ids = XmlIds(xml, path)
        self.xml_of = self._ids.xml_of
        self._lists, self.class_splits = read_split_files(split_folder, self.findings)
        self._lists = self._lists or self._split_by_folder()
        self.splits = tuple(name for name in self._lists if name not in self.class_splits)
        self._annotations: dict[Path, XmlFile | Unreadable] = {}

    def read(self, split: str | None = None) -> Dataset:
        return VocReader(self, split).read()

    def _split_by_folder(self) -> dict[str, list[str]]:
        """Split -> ids by folder (``train/``, ``valid/``, ``test/``), where every XML file is in one of them."""
        lists: dict[str, list[str]] = {}
        for id, path in self.xml_of.items():
            words = [w for part in path.relative_to(self.path).parts[:-1] if (w := split_word(part))]
            if not words:
                return {}
            lists.setdefault(words[-1], []).append(id)
        return lists

    def members(self, split: str | None, findings: Findings) -> dict[str, Path | None]:
        """Image id -> XML file (``None`` where there is none) of a split, or of the whole dataset."""
        if split is None and not self._lists:
            return dict(self.xml_of)
        members: dict[str, Path | None] = {}
        for name in self.splits if split is None else (split,):
            file = self.split_folder / f"{name}.txt" if self.split_folder else self.path
            seen: set[str] = set()
            ids = self._ids.find(self._lists[name], file, findings)
            for n, (listed, id) in enumerate(zip(self._lists[name], ids, strict=True), 1):
                if id in seen:
                    findings.add("warning", "id-repeated", file, f"line {n}", f"{listed!r} is listed twice; used once")
                seen.add(id)
                members.setdefault(id, self.xml_of.get(id))
            if not seen:
                findings.add("warning", "split-empty", file, "", f"the split {name!r} lists no image")
        return members

    @cached_property
    def unlisted(self) -> list[Path]:
        """The XML files that are in no split."""
        listed = set(self.members(None, Findings()).values())
        return [xml for xml in self.xml if xml not in listed]

    def annotation(self, xml: Path) -> XmlFile | Unreadable:
        """The content of an XML file, read once."""
        if xml not in self._annotations:
            try:
                self._annotations[xml] = read_file(xml)
            except Unreadable as error:
                self._annotations[xml] = error
        return self._annotations[xml]

    @cached_property
    def mask_images(self) -> dict[str, Path]:
        """Stem -> image of the object masks (``SegmentationObject/*.png``)."""
        root = self.split_folder.parents[1] if self.split_folder else self.path
        return {path.stem: path for path in sorted((root / "SegmentationObject").glob("*.png"))}


class VocReader(Reader[VocSource]):
    """One read of a VOC dataset."""

    def __init__(self, source: VocSource, split: str | None) -> None:
        super().__init__(source, split)
        self.fixed_classes = False  # by classes.txt
        self.label_of: dict[str, int] = {}
        self.unusable: set[str] = set()  # ids without an image of their own, which is a finding

    def records(self) -> list[Record]:
        source = self.source
        members = source.members(self.split, self.findings)
        self._find_classes()
        self.report_unlisted_folders()
        paths = self._find_images(members)
        used = {path for path in paths.values() if path is not None}
        records: list[Record] = []
        for id, xml in members.items():
            record = None if id in self.unusable else self._read_image(id, xml, paths[id])
            if record is not None:
                records.append(record)
        if source.split_folder is None or not source.splits:
            self._report_unannotated(used)
        if source.split_folder is not None:
            self._report_unlisted()
        return records

    def _find_classes(self) -> None:
        """``classes.txt``, else the names in the whole dataset (so that every split has the same), sorted."""
        file = self.source.class_file
        if file is not None:
            names: list[str] = []
            try:
                listed = read_class_list(file, self.findings, lambda lines: not self._names_used().isdisjoint(lines))
                names = unique_names(listed, file, self.findings)[0]
            except Unreadable as error:
                self.findings.add("error", "classes-unreadable", file, "", error.message, error.fix)
            if not names:
                message = "lists no class; the class names in the annotations are used"
                self.findings.add("warning", "classes-missing", file, "", message, "Write one name a line")
            self.classes, self.fixed_classes = tuple(names), bool(names)
        if not self.fixed_classes:
            self.classes = tuple(sorted(self._names_used()))
        self.label_of = {name: k for k, name in enumerate(self.classes)}

    def _names_used(self) -> set[str]:
        """The class names in all annotations."""
        annotated = filter(None, self.source.members(None, Findings()).values())
        annotations = [a for a in map(self.source.annotation, annotated) if isinstance(a, XmlFile)]
        return {o.name for a in annotations for o in a.objects if o.name and not o.deleted and not o.names}

    def _find_images(self, members: dict[str, Path | None]) -> dict[str, Path | None]:
        """The image of each id. A missing one is not reported here: its size may be all that is needed."""
        files = {id: self.source.annotation(xml) if xml is not None else None for id, xml in members.items()}
        names = {id: file.filename if isinstance(file, XmlFile) else "" for id, file in files.items()}
        paths: dict[str, Path | None] = {}
        xml_of: dict[Path, Path] = {}
        for id, (match, name, other) in match_images(self.source.images, members, names).items():
            xml = members[id]
            path = paths[id] = self.accept(match, name, xml or self.path, "") if match.paths else None
            if other is not None and path is not None and xml is not None:
                message = (
                    f"{{n}} with another image's name in <filename> ({other.name}); {path.name} is used, by its stem"
                )
                self.tally.add(
                    "note", "filename-differs", xml, "", "file", message, "Correct <filename> if it is wrong"
                )
            if path is None and match.paths:
                self.unusable.add(id)
            elif path is not None and xml is not None and xml_of.setdefault(path, xml) != xml:
                self._report_second(id, path, xml_of[path], xml)
        return paths

    def _report_second(self, id: str, path: Path, first: Path, xml: Path) -> None:
        """Of an XML file whose image has one already."""
        self.unusable.add(id)
        if self.source.annotation(first) == self.source.annotation(xml):
            message = f"the same as {first}, for the same image; used once"
            self.findings.add("warning", "annotation-repeated", xml, "", message, "Remove one of them")
        else:
            message = f"its image {path} has another annotation in {first}, with other objects; this one is not used"
            self.findings.add("error", "annotation-ambiguous", xml, "", message, "Remove the wrong one")

    def _read_image(self, id: str, xml: Path | None, path: Path | None) -> Record | None:
        if xml is None:
            self._report_missing(id, path)
            return None
        annotation = self.source.annotation(xml)
        if isinstance(annotation, Unreadable):
            self.findings.add("error", "annotation-unreadable", xml, "", annotation.message, annotation.fix)
            return None
        self._report_content(annotation, xml)
        if annotation.guessed:
            message = "its encoding is not the declared one; the encoding was guessed"
            self.findings.add("warning", "encoding-guessed", xml, "", message, "Save it as UTF-8")
        stated = stated_size(annotation, xml, self.findings)
        expected = path or self._expected_path(id, annotation)
        if path is None and self.trusted_size(stated) is None:
            message = f"the image of {xml} does not exist; skipped"
            fix = "Add the image or give --images DIR"
            self.findings.add("warning", "image-missing", expected, "", message, fix)
            return None
        size = self.image_size(expected, stated, xml)
        if size is None:
            return None
        masks = self.source.mask_images.get(xml.stem)
        class_file = self.source.class_file if self.fixed_classes else None
        parser = ObjectParser(self.label_of, class_file, self.findings, self.tally)
        objects = list(parser.objects(annotation, xml, masks))
        return self.record(id, expected, size, objects, xml)

    def _report_content(self, file: XmlFile, xml: Path) -> None:
        """Of what looks like objects but is none."""
        if file.strays:
            listed = ", ".join(f"<{tag}>" for tag in file.strays[:3])
            message = f"{len(file.strays)} boxes or outlines in {listed} and not in an <object>; not used"
            self.findings.add("warning", "object-misnamed", xml, "", message, "Put each into an <object>")
        if file.bare:
            message = "holds nothing but its root element; the image counts as one without objects"
            self.findings.add("warning", "annotation-empty", xml, "", message, "Export it again if it has objects")

    def _expected_path(self, id: str, annotation: XmlFile | None = None) -> Path:
        """Where a missing image belongs."""
        named = re.split(r"[\\/]", annotation.filename)[-1] if annotation else ""
        return self.source.image_roots[0] / (named or f"{id}.jpg")

    def _report_missing(self, id: str, path: Path | None) -> None:
        """Of a listed image without an XML file."""
        if path is None:
            message = "listed in a split, but neither image nor annotation exists; skipped"
            fix = "Add it or remove it from the split"
            self.findings.add("warning", "image-missing", self._expected_path(id), "", message, fix)
        else:
            message = "listed in a split, but it has no annotation file, so its objects are unknown; skipped"
            fix = "Annotate it or remove it from the split"
            self.findings.add("warning", "annotation-missing", path, "", message, fix)

    def _report_unannotated(self, used: set[Path]) -> None:
        """Of images without an XML file, where no split file lists them."""
        annotated = {p.stem for p in self.source.xml}
        for path in self.source.images.paths if self.source.require_images else ():
            elsewhere = self.split is not None and split_word(path.parent.name) != split_word(self.split)
            if path not in used and path.stem not in annotated and not elsewhere:
                message = "no annotation file, so its objects are unknown; skipped"
                fix = "Annotate it (a file without objects is valid)"
                self.findings.add("warning", "annotation-missing", path, "", message, fix)

    def _report_unlisted(self) -> None:
        """Of XML files that no split file lists."""
        files = self.source.unlisted
        if files and self.source.splits:
            message = (
                f"{len(files)} of the {len(self.source.xml)} annotation files are in no split file (first: {files[0]})"
            )
            fix = "Add them to a split file if they should be used"
            self.findings.add("note", "annotation-unlisted", self.source.split_folder or self.path, "", message, fix)
