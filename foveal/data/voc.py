"""PASCAL VOC: devkit folders, and any images with VOC XML beside them or in a folder of their own.

Boxes are 1-based and inclusive in the files, half-open here: 1 is taken from xmin and ymin, nothing from xmax and ymax
(VOC2012 devkit, section 6). A box with xmin = xmax is taken as what it nearly always is, a click without a size.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .checks import Findings, Object, Prober, flag, make_record, number, split_word, unique_names
from .dataset import Dataset, Record
from .files import ImageIndex, Unreadable, read_lines, read_xml

WRITTEN_BY_US = "foveal"  # <source><annotation> of our own files: their boxes follow the rule to the letter
_CLASS_LINE = re.compile(r"^(.*\S)\s+(-1|0|1)$")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class VocSource:
    """One VOC data set, recognised but not read. ``read`` may be called for several splits."""

    path: Path
    xml: list[Path]
    image_roots: tuple[Path, ...]
    sets: Path | None = None  # the folder of the split files
    class_file: Path | None = None
    format: str = "voc"
    splits: tuple[str, ...] = field(init=False, default=())
    prober: Prober = field(default_factory=Prober)

    def __post_init__(self) -> None:
        self._early = Findings()
        self._class_lists: set[str] = set()
        self._ids = _identify(self.xml, self.path)
        self._by_stem: dict[str, list[str]] = {}
        for id, path in self._ids.items():
            self._by_stem.setdefault(path.stem, []).append(id)
        self._lists = self._read_sets() if self.sets else {}
        if not self._lists:
            self._lists = self._split_folders()
        self.splits = tuple(name for name in self._lists if name not in self._class_lists)
        self._index: ImageIndex | None = None
        self._trees: dict[Path, ElementTree.Element | Unreadable] = {}
        self._guessed: set[Path] = set()

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
                self._early.add("error", "split-unreadable", file, "", error.message, error.fix)
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
        findings = Findings(self._early)
        wanted = self._wanted(split, findings)
        classes = self._classes(findings)
        fixed = self.class_file is not None and bool(classes)
        index = {name: k for k, name in enumerate(classes)}
        images = self._images()
        records: list[Record] = []
        used: set[Path] = set()
        for id, xml in wanted:
            path = self._image(id, xml, images, findings)
            if path is not None:
                used.add(path)
            if xml is None:
                self._report_missing(id, path, findings)
                continue
            root = self._tree(xml)
            if isinstance(root, Unreadable):
                findings.add("error", "annotation-unreadable", xml, "", root.message, root.fix)
                continue
            if xml in self._guessed:
                message = "its encoding is not stated rightly; read as well as could be guessed"
                findings.add("warning", "encoding-guessed", xml, "", message, "Save it as UTF-8")
            if path is None:
                missing = self._expected(id, root)
                message = f"the image of {xml} is not there; left out"
                findings.add("warning", "image-missing", missing, "", message, "Put it there or give --images DIR")
                continue
            size = self.prober.admit(path, _size(root, xml, findings), xml, findings)
            if size is None:
                continue
            objects = list(_objects(root, xml, index, fixed, self.class_file, findings))
            records.append(make_record(id, path, size, objects, xml, findings))
        if not self._lists or self.sets is None:
            self._report_unknown(images, used, split, findings)
        elif split is None:
            self._report_unlisted(wanted, findings)
        return Dataset(tuple(classes), records, list(findings), self.path, self.format, split, splits=self.splits)

    def _images(self) -> ImageIndex:
        if self._index is None:
            self._index = ImageIndex(*self.image_roots)
        return self._index

    def _tree(self, xml: Path) -> ElementTree.Element | Unreadable:
        """The root of an XML file, parsed once."""
        if xml not in self._trees:
            try:
                root, guessed = read_xml(xml)
                if guessed:
                    self._guessed.add(xml)
                if root.tag.rpartition("}")[2] != "annotation":
                    raise Unreadable(f"XML, but no VOC annotation: its root is <{root.tag}>", "Export it again")
                self._trees[xml] = root
            except Unreadable as error:
                self._trees[xml] = error
        return self._trees[xml]

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
            root = self._tree(xml) if xml is not None else None
            if isinstance(root, ElementTree.Element):
                found |= {name for o in root.findall("object") if (name := (o.findtext("name") or "").strip())}
        return sorted(found)

    # ------------------------------------------------------------------------------------------------ images
    def _image(self, id: str, xml: Path | None, images: ImageIndex, findings: Findings) -> Path | None:
        """The image of an id: the one with the same stem nearest to the XML file, else the one the XML names."""
        stem = id.rpartition("/")[2]
        near = xml.parent.parts if xml is not None else ()
        found = images.stem(stem, near)
        root = self._tree(xml) if xml is not None else None
        named = (root.findtext("filename") or "").strip() if isinstance(root, ElementTree.Element) else ""
        if not found and named:
            found = images.named(named)
        if len(found) > 1 and named:
            found = [p for p in found if p.name == named] or found
        if len(found) > 1:
            others = ", ".join(str(p) for p in found[1:])
            message = f"several images have this name; this one is used, not {others}"
            findings.add("warning", "image-ambiguous", found[0], "", message, "Remove or rename the others")
        return found[0] if found else None

    def _expected(self, id: str, root: ElementTree.Element) -> Path:
        """Where the missing image should have been."""
        named = re.split(r"[\\/]", (root.findtext("filename") or "").strip())[-1]
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


def _size(root: ElementTree.Element, xml: Path, findings: Findings) -> tuple[float, float] | None:
    texts = root.findtext("size/width"), root.findtext("size/height")
    if None in texts or "" in texts:
        return None
    width, height = number(texts[0]), number(texts[1])
    if width is None or height is None or not (0 <= width < 1e9 and 0 <= height < 1e9):
        message = f"the size {texts[0]} x {texts[1]} is no size; that of the image is used"
        findings.add("warning", "size-invalid", xml, "size", message, "Correct it")
        return None
    return width, height


def _objects(
    root: ElementTree.Element,
    xml: Path,
    index: dict[str, int],
    fixed: bool,
    class_file: Path | None,
    findings: Findings,
) -> Iterable[Object]:
    """The objects that can be understood; parts nested in an object are no objects of their own."""
    letter = (root.findtext("source/annotation") or "").strip() == WRITTEN_BY_US
    for n, element in enumerate(root.findall("object"), 1):
        name = (element.findtext("name") or "").strip()
        where = f"object {n}" + (f" ({name})" if name else "")
        if not name:
            findings.add("warning", "class-missing", xml, where, "it has no <name>; dropped", "Name its class")
            continue
        if name not in index:
            message = f"the class {name!r} is not in {class_file}; dropped" if fixed else f"unknown class {name!r}"
            findings.add("warning", "class-unknown", xml, where, message, "Correct the name, or add it to classes.txt")
            continue
        box = _corners(element, xml, where, findings)
        if box is None:
            continue
        shown = ", ".join(f"{c} {v:.12g}" for c, v in zip(_CORNERS, box, strict=True))
        x1, y1, x2, y2 = box
        flat = not letter and (x1 == x2 or y1 == y2) and x1 <= x2 and y1 <= y2
        low = 0 if flat or (not letter and (x2 < x1 or y2 < y1)) else 1  # so that settle() says empty or inverted
        yield Object(
            (x1 - low, y1 - low, x2, y2),
            index[name],
            where,
            shown,
            crowd=_flag(element, "crowd", xml, where, findings),
            difficult=_flag(element, "difficult", xml, where, findings),
        )


def _corners(
    element: ElementTree.Element, xml: Path, where: str, findings: Findings
) -> tuple[float, float, float, float] | None:
    box = element.find("bndbox")
    if box is None:
        findings.add("warning", "box-missing", xml, where, "it has no <bndbox>; dropped", "Add its box")
        return None
    values = []
    for corner in _CORNERS:
        text = box.findtext(corner)
        value = number((text or "").strip())
        if value is None:
            what = f"<{corner}> is {text.strip()!r}, not a number" if text and text.strip() else f"no <{corner}>"
            findings.add("warning", "box-not-number", xml, where, f"{what}; dropped", "Correct it")
            return None
        values.append(value)
    return values[0], values[1], values[2], values[3]


def _flag(element: ElementTree.Element, name: str, xml: Path, where: str, findings: Findings) -> bool:
    text = element.findtext(name)
    value = flag(text)
    if value is None:
        message = f"<{name}> is {text!r}, expected 0 or 1; taken as 0"
        findings.add("warning", "flag-invalid", xml, where, message, "Correct it")
    return bool(value)
