"""The interface of a dataset reader: a :class:`Source` for each dataset, a :class:`Reader` for each read of it.

A new format is one module with a subclass of each, and a finder in ``..recognition`` that recognizes its files.
"""

from __future__ import annotations

import filecmp
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np

from ..images.index import ImageIndex
from ..images.lookup import NameMatch, Wanted
from ..images.names import EXACT, Way
from ..records.convention import Convention
from ..records.dataset import Dataset, Record
from ..records.evidence import Evidence
from ..records.findings import Findings
from .validate import Box, ParsedObject, SizeCache, Tally, build_record, report_refused


class Source(ABC):
    """One dataset that has been recognized but not read; :meth:`read` may be called for several splits.

    A subclass sets ``splits`` (and ``class_splits``) in its ``__init__`` and appends what is wrong with the dataset
    as a whole to ``findings``, which every read begins with.
    """

    format: ClassVar[str]
    native: ClassVar[Convention]  # what the numbers of a box mean in this format

    def __init__(self, path: Path, image_roots: Iterable[Path]) -> None:
        self.path = path
        self.image_roots = tuple(image_roots)  # the images are somewhere below these folders
        self.splits: tuple[str, ...] = ()
        self.class_splits: tuple[str, ...] = ()  # readable by name but not listed: VOC's ``cat_train``
        self.findings = Findings()
        self.sizes = SizeCache()
        self.convention: str | None = None  # what they mean instead, see :func:`~foveal.data.open.open_dataset`
        self.require_images = True  # False: an image whose annotation states its size need not exist

    def reading(self, base: Convention | None = None) -> Convention:
        """What the numbers of boxes mean in this dataset, where a file says ``base`` (default: as in the format)."""
        base = self.native if base is None else base
        return base if self.convention is None else Convention.parse(self.convention, base)

    @abstractmethod
    def read(self, split: str | None = None) -> Dataset:
        """Records and findings of one of the splits, or of the whole dataset."""

    @cached_property
    def images(self) -> ImageIndex:
        """The images below ``image_roots``, listed once."""
        return ImageIndex(*self.image_roots)


S = TypeVar("S", bound=Source)


class Reader(ABC, Generic[S]):
    """Reads one split once (``None``: the whole dataset). A subclass implements :meth:`records`."""

    def __init__(self, source: S, split: str | None) -> None:
        self.source, self.split = source, split
        self.findings = Findings(source.findings)
        self.path = source.path  # what the dataset is called in messages
        self.classes: tuple[str, ...] = ()
        self.category_ids: tuple[int, ...] | None = None
        self.tally = Tally()  # reported when all has been read
        self._found: dict[Way, list[tuple[str, Path]]] = {}  # names that are not those of their images
        self.evidence = Evidence(source.reading())
        self._others: dict[
            tuple[Convention, bool], Evidence
        ] = {}  # on polygons, and on boxes that are stated otherwise

    def read(self) -> Dataset:
        """The dataset; nothing in the files raises, all problems become findings."""
        records = self.records()
        self._report_ways()
        self.tally.report(self.findings)
        return Dataset(
            classes=self.classes,
            records=records,
            findings=list(self.findings),
            path=self.path,
            format=self.source.format,
            split=self.split,
            category_ids=self.category_ids,
            splits=self.source.splits,
            evidence=[self.evidence, *self._others.values()],
        )

    @abstractmethod
    def records(self) -> list[Record]:
        """The records that can be used; sets ``classes`` and, where the format has them, ``category_ids``."""

    def record(
        self,
        id: int | str,
        path: Path,
        size: tuple[int, int],
        objects: Iterable[ParsedObject],
        source: Path | None,
        base: Convention | None = None,
    ) -> Record:
        """The record of one image, see :func:`~.validate.build_record`; boxes are read by the dataset's convention.

        ``base`` is what the numbers mean by the file itself, where that is not the rule of the format.
        """
        base = self.source.native if base is None else base
        parsed = list(objects)
        for o in parsed:
            if o.numbers is not None:
                own = replace(base, layout="corners") if o.around else base
                reading = self.source.reading(own)
                reading = replace(reading, layout="corners") if o.around else reading
                if not o.repeat:
                    self._evidence_of(own, reading, o.around).add(o.numbers, size, o.area, o.mask)
                if reading != own:
                    _reread(o, o.numbers, size, reading)
        return build_record(id, path, size, parsed, source, self.findings)

    def _evidence_of(self, base: Convention, reading: Convention, around: bool) -> Evidence:
        if base == self.source.native and not around:
            return self.evidence
        return self._others.setdefault((reading, around), Evidence(reading, around=around))

    def report_unlisted_folders(self) -> None:
        """A finding for each image folder that may not be listed."""
        report_refused(self.source.images.refused, self.findings)

    def find_images(
        self, names: Sequence[tuple[str, str]], file: Path, taken: Collection[Path] = ()
    ) -> list[Path | None]:
        """The image of each (name, location) of the annotation file ``file``; ``None``, and a finding, without one.

        A name may be a path of another system, a URL or differently spelled (:mod:`..images.names`): one note tells
        how many images were found in each such way. All names are given at once, for an image goes to the name that
        fits it best, and those in ``taken`` to none.
        """
        matches = self.source.images.match([Wanted(name, self.split or "") for name, _ in names], taken)
        return [self.accept(m, name, file, where) for m, (name, where) in zip(matches, names, strict=True)]

    def accept(self, match: NameMatch, name: str, file: Path, where: str, expected: Path | None = None) -> Path | None:
        """The one image of a match, whose way is counted; ``None``, and a finding, where there is none or several.

        ``expected`` is where a missing image belongs.
        """
        paths, way, rivals, passed, near = match
        if not paths:
            if expected is None:
                base = re.split(r"[\\/]", name.replace("\0", "?"))[-1][:255]
                expected = self.source.images.home(self.split or "") / base
            hint = f" ({near} is in another folder or has another annotation)" if near else ""
            message = f"{file} names it ({where}), but it does not exist{hint}; the image is skipped"
            fix = "Add the image or give --images DIR"
            self.findings.add("warning", "image-missing", expected, "", message, fix)
            return None
        first, *others = paths
        if rivals:
            message = f"{name!r} and {rivals[0]!r} fit {first} equally well ({way.phrase}); the image is skipped"
            self.findings.add("error", "image-ambiguous", file, where, message, "Correct the names")
            return None
        if others and not all(_same_content(first, other) for other in others):
            how = f" ({way.phrase})" if way.phrase else ""
            listed = " and ".join(map(str, (first, *others[:3])))
            message = f"{name!r} fits {listed} equally well{how}; the image is skipped"
            fix = "Rename or remove the wrong one, or give --images DIR"
            self.findings.add("error", "image-ambiguous", file, where, message, fix)
            return None
        if others or (passed and all(_same_content(first, other) for other in passed)):
            message = f"{', '.join(map(str, (*others, *passed)))} has the same name and content; this one is used"
            self.findings.add("warning", "image-repeated", first, "", message, "Remove the copy")
        elif passed:
            listed = ", ".join(map(str, passed[:3]))
            message = f"several files are called {name!r}; this one is used, not {listed}"
            self.findings.add("warning", "image-ambiguous", first, "", message, "Give --images DIR")
        if way != EXACT:
            self._found.setdefault(way, []).append((name, first))
        return first

    def _report_ways(self) -> None:
        """A note for each way in which images were found other than by their names."""
        for way, found in self._found.items():
            (name, path), n = found[0], len(found)
            message = f"{n} image{'s were' if n > 1 else ' was'} found {way.phrase}, first: {name!r} is {path}"
            self.findings.add("note", way.code, self.path, "", message, "Correct the names if this is wrong")

    def image_size(self, path: Path, stated: tuple[float, float] | None, source: Path) -> tuple[int, int] | None:
        """(width, height) of the upright image; ``None``, and a finding, where it is unusable.

        ``stated`` is the size in the annotation file ``source``.
        """
        size = self.trusted_size(stated)
        if size is None:
            size = self.source.sizes.check_size(path, stated, source, self.findings)
            if size is not None and (stated is None or 0 in stated) and self.source.sizes.sizes(path)[1] != size:
                self.evidence.turned.append(path)
        return size

    def trusted_size(self, stated: tuple[float, float] | None) -> tuple[int, int] | None:
        """The stated size where it is enough, so that the image is not opened."""
        if self.source.require_images or stated is None or min(stated) < 1:
            return None
        return int(stated[0]), int(stated[1])


def _same_content(a: Path, b: Path) -> bool:
    try:
        return filecmp.cmp(a, b, shallow=False)
    except OSError:
        return False


def _reread(o: ParsedObject, numbers: Box, size: tuple[int, int], reading: Convention) -> None:
    """Replaces the box of an object by the one that its numbers mean by a convention."""
    boxes = reading.boxes(np.array([numbers], np.float64), np.array([size], np.float64))
    x1, y1, x2, y2 = boxes[0].tolist()
    o.box = (x1, y1, x2, y2)
    if o.xywh is not None:
        o.xywh = (x1, y1, x2 - x1, y2 - y1)
