"""The names in VOC's split files (``ImageSets/Main/*.txt``), and the XML files that they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from ....files.reading import Unreadable, read_lines
from ...images.load import EXTENSIONS
from ...images.lookup import NameTable, Wanted
from ...images.names import normal_form
from ...records.findings import Findings

_CLASS_LINE = re.compile(r"^(.*\S)\s+(-1|0|1)$")
_ENDINGS = ("jpg", "jpeg", "png", "bmp", "xml")  # of names that a split file lists with their extension


def read_split_files(folder: Path | None, findings: Findings) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """Split -> listed names, and the splits of one class (``cat_train.txt``: -1, 0 or 1) among them.

    Those count for the split that they are part of where it has no file of its own.
    """
    lists: dict[str, list[str]] = {}
    by_class: dict[str, list[str]] = {}
    class_splits: list[str] = []
    files = sorted(folder.iterdir()) if folder else []
    for file in (file for file in files if file.suffix.lower() == ".txt"):
        try:
            lines = read_lines(file)
        except Unreadable as error:
            findings.add("error", "split-unreadable", file, "", error.message, error.fix)
            continue
        if file.stem in lists:
            message = "another file of this split differs only in the capitals of .txt; this one is not used"
            findings.add("error", "split-repeated", file, "", message, "Remove one of them")
            continue
        matches = [m for m in map(_CLASS_LINE.match, lines) if m]
        split = file.stem.rpartition("_")[2]
        if matches and len(matches) == len(lines):
            lines = [m.group(1) for m in matches]
            if file.stem != split:
                by_class.setdefault(split, []).extend(lines)
                lines = [m.group(1) for m in matches if m.group(2) != "-1"]
                class_splits.append(file.stem)
        lists[file.stem] = lines
    for split, names in by_class.items():
        lists.setdefault(split, list(dict.fromkeys(names)))
    return lists, tuple(class_splits)


class XmlIds:
    """The ids of XML files: the stem where it is unique, else the path below the root without its extension."""

    def __init__(self, files: Iterable[Path], root: Path) -> None:
        self._of_stem: dict[str, list[str]] = {}
        by_stem: dict[str, list[Path]] = {}
        for file in files:
            by_stem.setdefault(file.stem, []).append(file)
        ids: dict[str, Path] = {}
        for stem, same in by_stem.items():
            for file in same:
                id = stem if len(same) == 1 else file.relative_to(root).with_suffix("").as_posix()
                id = file.relative_to(root).as_posix() if id in ids else id  # a.xml beside a.XML
                ids[id] = file
                self._of_stem.setdefault(stem, []).append(id)
        self.xml_of = dict(sorted(ids.items()))

    def find(self, listed: Sequence[str], file: Path, findings: Findings) -> list[str]:
        """The ids of the names in a split file: as they are written, by their last part, or by a normal form."""
        ids = [self._find(name) for name in listed]
        unknown = [k for k, id in enumerate(ids) if id not in self.xml_of]
        taken = {self.xml_of[id] for id in ids if id in self.xml_of}
        stems = [normal_form(ids[k], 0, self._names.endings) for k in unknown]
        matches = self._names.match([Wanted(stem, folders=()) for stem in stems], taken) if unknown else []
        told: dict[str, tuple[str, int, str]] = {}
        for k, match in zip(unknown, matches, strict=True):
            if len(match.paths) == 1 and not match.rivals:
                ids[k] = self._id_of[match.paths[0]]
                _, count, first = told.get(match.way.code, ("", 0, f"{listed[k]!r} is {match.paths[0]}"))
                told[match.way.code] = match.way.phrase, count + 1, first
        for code, (phrase, count, first) in told.items():
            message = f"{count} of its names were found {phrase}, first: {first}"
            findings.add("note", code, file, "", message, "Correct the names if this is wrong")
        return ids

    @cached_property
    def _names(self) -> NameTable:
        return NameTable(self.xml_of.values(), EXTENSIONS | {".xml"})

    @cached_property
    def _id_of(self) -> dict[Path, str]:
        return {file: id for id, file in self.xml_of.items()}

    def _find(self, listed: str) -> str:
        """The id of a listed name: as it is written, without its extension, or by its last part."""
        if listed in self.xml_of:
            return listed
        plain = re.split(r"[\\/]", listed)[-1]
        stem, dot, ending = plain.rpartition(".")
        for candidate in (plain, stem):
            if candidate and len(self._of_stem.get(candidate, [])) == 1:
                return self._of_stem[candidate][0]
        return stem if dot and ending.lower() in _ENDINGS else plain
