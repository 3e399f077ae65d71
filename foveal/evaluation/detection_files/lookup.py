"""Finds the image and the class of a dataset that a file of detections names: by id, number or name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...data.diagnosis.classes import folded
from ...data.images.load import EXTENSIONS
from ...data.images.lookup import NameTable
from ...data.images.names import path_parts
from ...errors import FovealError, nearest
from ...files.aliases import Ints


def shown(values: Iterable[Any], limit: int = 5) -> str:
    """The first values of a list."""
    listed = [str(v) for v in values]
    return ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")


def file_part(name: str) -> str:
    """A class name as a part of a file name: what no file name may hold is percent-encoded."""
    return re.sub(r"[/\\\x00-\x1f\x7f]|%(?=[0-9A-Fa-f]{2})", lambda match: f"%{ord(match[0]):02X}", name)


def _other_form(image: int | str) -> int | str | None:
    """A number for the name that is that number, and vice versa."""
    if isinstance(image, str):
        return int(image) if image.isascii() and image.isdecimal() and len(image) < 4000 else None
    return str(image)


# ------------------------------------------------------------------------------------------------- images
class ImageNames:
    """The images of a dataset, by id and by file name."""

    def __init__(self, ids: Sequence[int | str], files: Sequence[str] | None) -> None:
        self.ids, self.files = ids, tuple(map(str, ids)) if files is None else tuple(files)
        self.exact: dict[Any, int] = {image: i for i, image in enumerate(ids)}
        self.number: dict[Any, int] = {}
        for i, image in enumerate(ids):
            other = _other_form(image)
            if other is not None:
                self.number[other] = -1 if other in self.number else i
        self.how: Counter[str] = Counter()  # images that were found in each way

    def find(self, path: Path, refs: Sequence[Any]) -> Ints:
        """Index (n,) of each image that is named.

        Raises :class:`FovealError` for images that the dataset does not have, and for ambiguous names.
        """
        found: dict[Any, int] = {}
        for ref in dict.fromkeys(refs):
            found[ref] = self._one(path, ref)
        missing = [ref for ref, i in found.items() if i < 0]
        if missing:
            raise FovealError(
                f"{len(missing)} of {len(found)} image ids are not in the dataset: {shown(missing)}",
                path=path,
                fix=f"Check the split: the dataset has {len(self.ids)} images: {shown(self.ids)}",
            )
        self._check_distinct(path, found)
        return np.array([found[ref] for ref in refs], np.int64)

    def knows(self, path: Path, refs: Iterable[Any]) -> bool:
        """Whether one of the images at least is in the dataset."""
        return any(self._one(path, ref) >= 0 for ref in dict.fromkeys(refs))

    def words(self, path: Path) -> list[str]:
        """A text for each image that leads to it and to no other: its id, else the name of its file."""
        found = []
        for i, (image, file) in enumerate(zip(self.ids, self.files, strict=True)):
            forms = (str(image), _base(file), file)
            found.append(next((form for form in forms if self._leads_to(path, form) == i), str(image)))
        return found

    def _leads_to(self, path: Path, ref: str) -> int:
        try:
            return self._one(path, ref)
        except FovealError:
            return -1

    def _one(self, path: Path, ref: Any) -> int:
        if ref in self.exact:
            self.how["id"] += 1
            return self.exact[ref]
        number = self.number.get(ref, -1)
        if not isinstance(ref, str):
            self.how["id"] += number >= 0
            return number
        named, how = self._named(path, ref)
        if number >= 0 and named >= 0 and number != named:
            raise FovealError(
                f"image {ref!r} is the id of {self.files[number]}, and the name of {self.files[named]}",
                path=path,
                fix="Name images by their whole file names, or write ids as numbers",
            )
        if number >= 0:
            how = "id"
        self.how[how] += max(number, named) >= 0
        return max(number, named)

    def _named(self, path: Path, ref: str) -> tuple[int, str]:
        """By file name, as annotations name images (:class:`~foveal.data.images.lookup.NameTable`)."""
        match = self._table.find(ref)
        if len(match.paths) > 1:
            both = " and ".join(map(str, match.paths[:2]))
            raise FovealError(f"image {ref!r} may be {both}", path=path, fix="Name the images with their folders")
        if not match.paths:
            return -1, ""
        return self._rows[match.paths[0]], f"file name {match.way.phrase}".strip()

    @cached_property
    def _rows(self) -> dict[Path, int]:
        return {Path(file): i for i, file in enumerate(self.files)}

    @cached_property
    def _table(self) -> NameTable:
        return NameTable(map(Path, self.files), EXTENSIONS)

    def _check_distinct(self, path: Path, found: Mapping[Any, int]) -> None:
        """Two names that lead to one image are two images somewhere else."""
        taken: dict[int, str] = {}
        for ref, i in found.items():
            name = _base(ref) if isinstance(ref, str) else None
            if name is None or ref in self.exact or ref in self.number:
                continue
            if i in taken and taken[i] != ref:
                raise FovealError(
                    f"images {taken[i]!r} and {ref!r} would both be {self.files[i]}",
                    path=path,
                    fix="Keep the detections of the images of this dataset",
                )
            taken[i] = ref


def _base(name: str) -> str:
    return (path_parts(name) or [name])[-1]


# ------------------------------------------------------------------------------------------------ classes
class ClassNames:
    """The classes of a dataset, by category id and by name."""

    def __init__(self, names: Sequence[str], category_ids: Sequence[int] | None) -> None:
        self.names, self.numbered = names, category_ids is None
        self.ids = tuple(category_ids or range(1, 1 + len(names)))
        self.by_id: dict[Any, int] = {number: k for k, number in enumerate(self.ids)}
        self.by_name = {name: k for k, name in enumerate(names)}
        self.by_folded: dict[str, list[int]] = {}
        for k, name in enumerate(names):
            self.by_folded.setdefault(folded(name), []).append(k)
        self.how: Counter[str] = Counter()  # classes that were found in each way

    def find(self, path: Path, refs: Sequence[Any], places: Sequence[str], *, drop: bool, named: bool) -> Ints:
        """Label (n,) of each class that is named, -1 where it is unknown and ``drop`` is true.

        ``named``: they are names and never ids. Raises :class:`FovealError` for unknown and ambiguous ones.
        """
        found = {ref: self._one(path, ref, named) for ref in dict.fromkeys(refs)}
        unknown = [ref for ref, k in found.items() if k < 0]
        if unknown and not drop:
            row = next(i for i, ref in enumerate(refs) if found[ref] < 0)
            raise self._unknown(path, places[row], refs[row], unknown)
        return np.array([found[ref] for ref in refs], np.int64)

    def _one(self, path: Path, ref: Any, named: bool) -> int:
        if not isinstance(ref, str):
            other = self.by_name.get(str(ref), -1)
            k = -1 if named else self.by_id.get(ref, -1)
            if self.numbered and k >= 0 and other >= 0 and other != k:
                raise self._ambiguous(path, ref, other, k)
            self.how["id"] += k >= 0
            return k
        k, number = self.by_name.get(ref, -1), _other_form(ref)
        if not named and number is not None:
            by_id = self.by_id.get(number, -1)
            if k >= 0 and by_id >= 0 and by_id != k:
                raise self._ambiguous(path, ref, k, by_id)
            if k < 0:
                self.how["id"] += by_id >= 0
                return by_id
        if k < 0:
            close = self.by_folded.get(folded(ref), [])
            if len(close) > 1:
                both = " or ".join(repr(self.names[i]) for i in close[:2])
                raise FovealError(f"class {ref!r} may be {both}", path=path, fix="Write it as the dataset does")
            k = close[0] if close else -1
            self.how["name in other letters"] += k >= 0
        else:
            self.how["name"] += 1
        return k

    def _ambiguous(self, path: Path, ref: Any, name: int, number: int) -> FovealError:
        return FovealError(
            f"class {ref!r} may be the one with this name or the category {self.names[number]!r} with this id",
            path=path,
            fix='Name the classes as `foveal predict --json` does, under "label"',
        )

    def _unknown(self, path: Path, place: str, ref: Any, unknown: list[Any]) -> FovealError:
        if isinstance(ref, str):
            message = f"unknown class {ref!r}; {len(unknown)} unknown in all: {shown(sorted(map(str, unknown)))}"
            hint = nearest(ref, self.names)
            fix = f"{hint} Use the classes of the dataset: {shown(self.names)}".strip()
            return FovealError(message, path=path, where=place, fix=fix)
        names = shown(f"{number} ({name})" for number, name in zip(self.ids, self.names, strict=True))
        why = ", numbered from 1 because this dataset has no category ids of its own" if self.numbered else ""
        return FovealError(
            f"unknown category id {ref!r}; {len(unknown)} unknown in all: {shown(sorted(unknown, key=repr))}",
            path=path,
            where=place,
            fix=f"Use the ids of the dataset: {names}{why}",
        )
