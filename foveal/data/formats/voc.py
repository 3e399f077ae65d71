"""PASCAL VOC: devkit folders, and any images with VOC XML beside them or in a folder of their own.

Split files are the authority on what is in a split; a listed image without an XML file is unknown and left out. In
``SegmentationObject`` the pixels of the n-th object of an XML file have the value n.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...files.reading import Unreadable, read_lines
from ..images.index import ImageIndex
from ..records.dataset import Dataset, Record
from ..records.findings import Findings
from ..records.splits import split_word
from .validate import SizeCache, build_record, report_refused, unique_names
from .voc_xml import Annotation, read_annotation

_CLASS_LINE = re.compile(r"^(.*\S)\s+(-1|0|1)$")


@dataclass
class VocSource:
    """One VOC data set, recognized but not read. ``read`` may be called for several splits."""

    path: Path
    xml: list[Path]
    image_roots: tuple[Path, ...]
    sets: Path | None = None  # the folder of the split files
    class_file: Path | None = None
    format: str = "voc"
    look: bool = True  # at the images; else an image whose size is stated need not be there, for scoring detections
    splits: tuple[str, ...] = field(init=False, default=())
    prober: SizeCache = field(default_factory=SizeCache)

    def __post_init__(self) -> None:
        self.early = Findings()
        self._class_lists: set[str] = set()
        self._ids = _identify(self.xml, self.path)
        self._by_stem: dict[str, list[str]] = {}
        for id, path in self._ids.items():
            self._by_stem.setdefault(path.stem, []).append(id)
        self._lists = self._read_sets() if self.sets else {}
        if not self._lists:
            self._lists = self._split_folders()
        self.splits = tuple(name for name in self._lists if name not in self._class_lists)
        self.class_splits = tuple(sorted(self._class_lists))  # ``cat_train``: may be asked for, but is not listed
        self._index: ImageIndex | None = None
        self._drawings = (self.sets.parents[1] if self.sets else self.path) / "SegmentationObject"
        self._read: dict[Path, Annotation | Unreadable] = {}

    # ------------------------------------------------------------------------------------ what is in a split
    def _read_sets(self) -> dict[str, list[str]]:
        """Split name -> listed names. Files of one class (``cat_train.txt``: -1, 0 or 1) count where no others do."""
        assert self.sets is not None
        lists: dict[str, list[str]] = {}
        by_class: dict[str, list[str]] = {}
        for file in sorted(self.sets.glob("*.txt")):
            try:
                lines = read_lines(file)
            except Unreadable as error:
                self.early.add("error", "split-unreadable", file, "", error.message, error.fix)
                continue
            rows = [m for m in map(_CLASS_LINE.match, lines) if m]
            split = file.stem.rpartition("_")[2]
            if rows and len(rows) == len(lines):
                if file.stem != split:
                    by_class.setdefault(split, []).extend(m.group(1) for m in rows)
                    lists[file.stem] = [m.group(1) for m in rows if m.group(2) != "-1"]
                    self._class_lists.add(file.stem)
                    continue
                lines = [m.group(1) for m in rows]
            lists[file.stem] = lines
        for split, names in by_class.items():
            lists.setdefault(split, list(dict.fromkeys(names)))
        return lists

    def _split_folders(self) -> dict[str, list[str]]:
        """Splits by folder (``train/``, ``valid/``, ``test/``), where every XML file lies in one of them."""
        lists: dict[str, list[str]] = {}
        for id, path in self._ids.items():
            words = [w for part in path.relative_to(self.path).parts[:-1] if (w := split_word(part))]
            if not words:
                return {}
            lists.setdefault(words[-1], []).append(id)
        return lists

    def _wanted(self, split: str | None, findings: Findings) -> list[tuple[str, Path | None]]:
        """(id, XML file or None) of a split, or of the whole set."""
        if split is None and not self._lists:
            return list(self._ids.items())
        names = self.splits if split is None else (split,)
        wanted: dict[str, Path | None] = {}
        for name in names:
            file = self.sets / f"{name}.txt" if self.sets else self.path
            mine: set[str] = set()
            for n, listed in enumerate(self._lists[name], 1):
                id = self._find(listed)
                if id in mine:
                    findings.add("warning", "id-repeated", file, f"line {n}", f"{listed!r} is listed twice; used once")
                mine.add(id)
                wanted.setdefault(id, self._ids.get(id))
            if not mine:
                findings.add("warning", "split-empty", file, "", f"the split {name!r} lists no image")
        return list(wanted.items())

    def _find(self, listed: str) -> str:
        """The id of a listed name: as it stands, without an ending, or by its last part."""
        if listed in self._ids:
            return listed
        plain = re.split(r"[\\/]", listed)[-1]
        for stem in (plain, plain.rpartition(".")[0]):
            if stem and len(self._by_stem.get(stem, [])) == 1:
                return self._by_stem[stem][0]
        stem, dot, ending = plain.rpartition(".")
        return stem if dot and ending.lower() in ("jpg", "jpeg", "png", "bmp", "xml") else plain

    # ----------------------------------------------------------------------------------------------- reading
    def read(self, split: str | None = None) -> Dataset:
        """Records of a split (one of ``splits``), or of the whole set."""
        findings = Findings(self.early)
        wanted = self._wanted(split, findings)
        classes = self._classes(findings)
        fixed = self.class_file is not None and bool(classes)
        index = {name: k for k, name in enumerate(classes)}
        images = self._images()
        report_refused(images.refused, findings)
        records: list[Record] = []
        drawn = {path.stem: path for path in sorted(self._drawings.glob("*.png"))}
        used: set[Path] = set()
        for id, xml in wanted:
            path = self._image(id, xml, images, findings)
            if path is not None:
                used.add(path)
            if xml is None:
                self._report_missing(id, path, findings)
                continue
            annotation = self._annotation(xml)
            if isinstance(annotation, Unreadable):
                findings.add("error", "annotation-unreadable", xml, "", annotation.message, annotation.fix)
                continue
            if annotation.guessed:
                message = "its encoding is not stated rightly; read as well as could be guessed"
                findings.add("warning", "encoding-guessed", xml, "", message, "Save it as UTF-8")
            stated = annotation.size(xml, findings)
            if not self.look and stated is not None and min(stated) > 0:
                objects = list(annotation.objects(xml, index, fixed, self.class_file, findings, drawn.get(xml.stem)))
                place = path or self._expected(id, annotation)
                records.append(build_record(id, place, (int(stated[0]), int(stated[1])), objects, xml, findings))
                continue
            if path is None:
                missing = self._expected(id, annotation)
                message = f"the image of {xml} is not there; left out"
                findings.add("warning", "image-missing", missing, "", message, "Put it there or give --images DIR")
                continue
            size = self.prober.check_size(path, stated, xml, findings)
            if size is None:
                continue
            objects = list(annotation.objects(xml, index, fixed, self.class_file, findings, drawn.get(xml.stem)))
            records.append(build_record(id, path, size, objects, xml, findings))
        if not self._lists or self.sets is None:
            if self.look:
                self._report_unknown(images, used, split, findings)
        elif split is None:
            self._report_unlisted(wanted, findings)
        return Dataset(tuple(classes), records, list(findings), self.path, self.format, split, splits=self.splits)

    def _images(self) -> ImageIndex:
        if self._index is None:
            self._index = ImageIndex(*self.image_roots)
        return self._index

    def _annotation(self, xml: Path) -> Annotation | Unreadable:
        """What an XML file says, read once."""
        if xml not in self._read:
            try:
                self._read[xml] = read_annotation(xml)
            except Unreadable as error:
                self._read[xml] = error
        return self._read[xml]

    def _classes(self, findings: Findings) -> list[str]:
        """``classes.txt``, else the names found in the whole set (so that every split has the same), sorted."""
        if self.class_file is not None:
            try:
                names = unique_names(read_lines(self.class_file), self.class_file, findings)[0]
            except Unreadable as error:
                findings.add("error", "classes-unreadable", self.class_file, "", error.message, error.fix)
                names = []
            if names:
                return names
            message = "lists no class; the names found in the annotations are used"
            findings.add("warning", "classes-missing", self.class_file, "", message, "Write one name a line")
        found: set[str] = set()
        for _, xml in self._wanted(None, Findings()):
            annotation = self._annotation(xml) if xml is not None else None
            if isinstance(annotation, Annotation):
                found |= {o.name for o in annotation.raw if o.name}
        return sorted(found)

    # ------------------------------------------------------------------------------------------------ images
    def _image(self, id: str, xml: Path | None, images: ImageIndex, findings: Findings) -> Path | None:
        """The image of an id: the one with the same stem nearest to the XML file, else the one the XML names."""
        stem = id.rpartition("/")[2]
        near = xml.parent.parts if xml is not None else ()
        found = images.stem(stem, near)
        annotation = self._annotation(xml) if xml is not None else None
        named = annotation.filename if isinstance(annotation, Annotation) else ""
        if not found and named:
            found = images.named(named)
        if len(found) > 1 and named:
            found = [p for p in found if p.name == named] or found
        if len(found) > 1:
            others = ", ".join(str(p) for p in found[1:])
            message = f"several images have this name; this one is used, not {others}"
            findings.add("warning", "image-ambiguous", found[0], "", message, "Remove or rename the others")
        return found[0] if found else None

    def _expected(self, id: str, annotation: Annotation) -> Path:
        """Where the missing image should have been."""
        named = re.split(r"[\\/]", annotation.filename)[-1]
        return self.image_roots[0] / (named or f"{id}.jpg")

    def _report_missing(self, id: str, path: Path | None, findings: Findings) -> None:
        if path is None:
            place = self.image_roots[0] / f"{id}.jpg"
            message = "listed in a split, but neither image nor annotation is there; left out"
            findings.add("warning", "image-missing", place, "", message, "Add it, or take it from the split")
        else:
            message = "listed, but it has no annotation file, so its objects are unknown; left out"
            findings.add("warning", "annotation-missing", path, "", message, "Annotate it, or take it from the split")

    def _report_unknown(self, images: ImageIndex, used: set[Path], split: str | None, findings: Findings) -> None:
        have = {p.stem for p in self.xml}
        for path in images.paths:
            elsewhere = split is not None and split_word(path.parent.name) != split_word(split)
            if path not in used and path.stem not in have and not elsewhere:
                message = "no annotation file, so its objects are unknown; left out"
                findings.add("warning", "annotation-missing", path, "", message, "Annotate it (no object is fine)")

    def _report_unlisted(self, wanted: Sequence[tuple[str, Path | None]], findings: Findings) -> None:
        listed = {xml for _, xml in wanted}
        for xml in self.xml:
            if xml not in listed:
                findings.add("note", "annotation-unlisted", xml, "", "in no split file; not used")


def _identify(files: Iterable[Path], root: Path) -> dict[str, Path]:
    """id -> file: the stem where it is the only one, else the path below the root without its ending."""
    by_stem: dict[str, list[Path]] = {}
    for file in files:
        by_stem.setdefault(file.stem, []).append(file)
    ids = {}
    for stem, same in by_stem.items():
        for file in same:
            ids[stem if len(same) == 1 else file.relative_to(root).with_suffix("").as_posix()] = file
    return dict(sorted(ids.items()))
