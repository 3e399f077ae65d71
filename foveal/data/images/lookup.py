"""Finds files by the names that annotations use, exactly or by a normal form (:mod:`.names`)."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from .names import EXACT, EXTENSION, FOLDER, FORMS, WAYS, WHOLE, Way, is_uploaded, normal_form, spellings

_OF_IMAGES = {"images", "image", "img", "imgs", "jpegimages", "photos", "pictures"}
_NEUTRAL = _OF_IMAGES | {"data", "dataset", "labels"}
_STEM = ((0, True), (1, True), (2, True), (3, True), (4, True), (5, True))  # forms, and whether the extension is off
_NAME = ((0, False), (1, False), (2, False), (3, False), *_STEM)
_EXACT, _BASE_NAMES, _ADDRESSES = 0, 1, 2  # the first levels of a search; then the rest of ``_NAME`` or ``_STEM``


class NameMatch(NamedTuple):
    """What a name led to."""

    paths: tuple[Path, ...] = ()  # one file; several that fit equally well; none
    way: Way = EXACT
    rivals: tuple[str, ...] = ()  # with one file: the other names that fit it equally well
    passed: tuple[Path, ...] = ()  # with one file: others of its name, in folders of less weight
    near: Path | None = None  # without a file: one of a similar name, in another folder or used by another name


class Wanted(NamedTuple):
    """A file that is looked for."""

    name: str  # as written: ``a.jpg``, ``train/a.jpg``, ``C:\\x\\a.jpg``, a URL
    prefer: str = ""  # a folder of this name breaks ties
    folders: tuple[str, ...] | None = None  # the folders of its annotation, where ``name`` is a stem without folders


class NameTable:
    """Files by every normal form of their names; the tables are built when they are first needed."""

    def __init__(self, paths: Iterable[Path], endings: frozenset[str], roots: Sequence[Path] = ()) -> None:
        self.paths = list(paths)
        self.endings = endings  # extensions, in lower case, that may be exchanged
        self.roots = frozenset(map(str, roots))  # a file directly in one of these breaks ties
        self._tables: dict[tuple[int, bool, bool], dict[str, list[Path]]] = {}
        self._folders: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}

    def find(self, name: str, prefer: str = "") -> NameMatch:
        """:meth:`match` of a single name."""
        return self.match([Wanted(name, prefer)])[0]

    def match(self, wanted: Sequence[Wanted], taken: Collection[Path] = ()) -> list[NameMatch]:
        """The file of each name. A file that one name fits better is not given to another, nor is one of ``taken``.

        The longest matching end of the path decides between files of one name, so nothing outside the folders is ever
        opened. A file in another folder is not taken where the named folder exists. Exact names come first, then each
        normal form in turn; a file that several names fit equally well has ``rivals``.
        """
        result: dict[Wanted, NameMatch] = {}
        used = set(taken)
        near: dict[Wanted, Path] = {}
        open_ = list(dict.fromkeys(wanted))
        for level in range(_ADDRESSES + len(_NAME)):
            proposed: dict[Path, list[Wanted]] = {}
            for item in open_:
                match = self._look_up(item, level, used, near)
                if match is not None:
                    result[item] = match
                    for path in match.paths[:1] if len(match.paths) == 1 else ():
                        proposed.setdefault(path, []).append(item)
            for path, same in proposed.items():
                names = tuple(dict.fromkeys(item.name for item in same))
                for item in same if len(names) > 1 and level != _EXACT else ():
                    result[item] = result[item]._replace(rivals=tuple(n for n in names if n != item.name))
                used.add(path)
            open_ = [item for item in open_ if item not in result]
            if not open_:
                break
        return [result.get(item) or NameMatch(near=near.get(item)) for item in wanted]

    def _look_up(self, item: Wanted, level: int, used: set[Path], near: dict[Wanted, Path]) -> NameMatch | None:
        """The match of one name at one level: exact, base name alone, address, then the forms; ``None`` for none."""
        stem = item.folders is not None
        ways = _STEM if stem else _NAME
        step = max(0, level - _ADDRESSES)
        if step >= len(ways) or (stem and level in (_BASE_NAMES, _ADDRESSES)):
            return None
        forms, short = ways[step]
        for parts, spelled in [([item.name], EXACT)] if stem else spellings(item.name):
            if level <= _ADDRESSES and (spelled is EXACT) == (level == _ADDRESSES):
                continue
            base, named = parts[-1], list(item.folders or parts[:-1])
            key = normal_form(base, forms, self.endings if short and (forms or not stem) else None)
            found = self._candidates(forms, short, key, named)
            if forms > WHOLE and found and is_uploaded(base, self.endings):
                found = [path for path in found if not is_uploaded(path.name, self.endings)]
            free = [path for path in found if path not in used] if level else found
            if found and not free:
                near.setdefault(item, found[0])
            best, same, passed = self._closest(free, named, item.prefer, base)
            if not best:
                continue
            if not stem and named and not same:
                if self._contradicts(named[-1]):
                    near.setdefault(item, best[0])
                    continue
                if level == _EXACT:
                    continue  # until the other names have had their files
            other = short and (not stem or key != normal_form(base, forms))
            other = other or (forms == 1 and self._without_endings(best[0].name) == base)  # a.jpg.jpg
            way = EXTENSION if other and forms <= WHOLE else WAYS[forms]
            if level == _ADDRESSES:
                way = spelled
            elif level == _BASE_NAMES:
                way = EXACT if _absolute(item.name) else FOLDER
            return NameMatch(tuple(best), way, passed=tuple(passed))
        return None

    def _candidates(self, forms: int, short: bool, key: str, named: list[str]) -> list[Path]:
        """The files of a normal form; of many (frames of many videos) those in a folder of the right name."""
        found = self._table(forms, short).get(key, [])
        if len(found) > 8 and named:
            return self._table(forms, short, True).get(f"{normal_form(named[-1], WHOLE)}/{key}", found)
        return found

    def _closest(
        self, paths: list[Path], named: list[str], prefer: str, base: str
    ) -> tuple[list[Path], int, list[Path]]:
        """The ``paths`` whose folders match best, how many folders match, and the others.

        The others are told where one file lies in a root or a folder of images, and they (small copies, masks) do not.
        """
        if not paths or (len(paths) == 1 and not named):
            return paths, 0, []
        folded = [normal_form(part, WHOLE) for part in named]
        if len(paths) == 1:
            return paths, _common_end(folded, self._folders_of(paths[0])[1]), []

        def score(path: Path) -> tuple[int, int, int, int]:
            raw, plain = self._folders_of(path)
            favored = int(bool(prefer) and prefer in raw)
            return _common_end(folded, plain), _common_end(named, raw), favored, _alike(base, path.name)

        scores = [score(path) for path in paths]
        best = max(scores)
        closest = [path for path, s in zip(paths, scores, strict=True) if s == best]
        top = [path for path in closest if not named and str(path.parent) in self.roots]
        top = top or [path for path in closest if _OF_IMAGES.intersection(self._folders_of(path)[1][-1:])]
        if len(top) == 1 < len(closest):
            return top, best[0], [path for path in closest if path not in top]
        return closest, best[0], []

    def _without_endings(self, base: str) -> str:
        stem, suffix = os.path.splitext(base)
        while suffix.lower() in self.endings:
            base = stem
            stem, suffix = os.path.splitext(base)
        return base

    def _contradicts(self, folder: str) -> bool:
        """Whether the folder that a name states exists here."""
        plain = normal_form(folder, WHOLE)
        return plain in self._folder_names and plain not in _NEUTRAL

    @cached_property
    def _folder_names(self) -> frozenset[str]:
        return frozenset(normal_form(os.path.basename(parent), WHOLE) for parent in {str(p.parent) for p in self.paths})

    def _folders_of(self, path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The folders of a file as they are, and in normal form."""
        parent = str(path.parent)
        if parent not in self._folders:
            parts = path.parts[:-1]
            self._folders[parent] = parts, tuple(normal_form(part, WHOLE) for part in parts)
        return self._folders[parent]

    def _table(self, forms: int, short: bool, in_folder: bool = False) -> dict[str, list[Path]]:
        table = self._tables.get((forms, short, in_folder))
        if table is None:
            table = self._tables[forms, short, in_folder] = {}
            for path in self.paths:
                key = normal_form(path.name, forms, self.endings if short else None)
                if in_folder:
                    key = f"{self._folders_of(path)[1][-1]}/{key}" if path.parent.parts else key
                table.setdefault(key, []).append(path)
        return table


def _common_end(a: Sequence[str], b: Sequence[str]) -> int:
    same = 0
    while same < min(len(a), len(b)) and a[-1 - same] == b[-1 - same]:
        same += 1
    return same


def _alike(a: str, b: str) -> int:
    """How early two base names have the same form, without their extensions."""
    a, b = os.path.splitext(a)[0], os.path.splitext(b)[0]
    return next((len(FORMS) - k for k in range(len(FORMS) + 1) if normal_form(a, k) == normal_form(b, k)), -1)


def _absolute(name: str) -> bool:
    """Whether a name is a path of another machine or a URL, whose folders mean nothing here."""
    return name.startswith(("/", "\\", "..")) or bool(re.match(r"^[A-Za-z][A-Za-z0-9+.-]*:", name))
