"""The interface of a dataset reader: a :class:`Source` for each dataset, a :class:`Reader` for each read of it.

A new format is one module with a subclass of each, and an entry in ``recognize.py`` that recognizes its files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from ..images.index import ImageIndex
from ..records.dataset import Dataset, Record
from ..records.findings import Findings
from .validate import SizeCache, report_refused


class Source(ABC):
    """One dataset that has been recognized but not read; :meth:`read` may be called for several splits.

    A subclass sets ``splits`` (and ``class_splits``) in its ``__init__`` and appends what is wrong with the dataset
    as a whole to ``findings``, which every read begins with.
    """

    format: ClassVar[str]

    def __init__(self, path: Path, image_roots: Iterable[Path]) -> None:
        self.path = path
        self.image_roots = tuple(image_roots)  # the images are somewhere below these folders
        self.splits: tuple[str, ...] = ()
        self.class_splits: tuple[str, ...] = ()  # readable by name but not listed: VOC's ``cat_train``
        self.findings = Findings()
        self.sizes = SizeCache()
        self.require_images = True  # False: an image whose annotation states its size need not exist

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

    def read(self) -> Dataset:
        """The dataset; nothing in the files raises, all problems become findings."""
        records = self.records()
        return Dataset(
            classes=self.classes,
            records=records,
            findings=list(self.findings),
            path=self.path,
            format=self.source.format,
            split=self.split,
            category_ids=self.category_ids,
            splits=self.source.splits,
        )

    @abstractmethod
    def records(self) -> list[Record]:
        """The records that can be used; sets ``classes`` and, where the format has them, ``category_ids``."""

    def report_unlisted_folders(self) -> None:
        """A finding for each image folder that may not be listed."""
        report_refused(self.source.images.refused, self.findings)

    def image_size(self, path: Path, stated: tuple[float, float] | None, source: Path) -> tuple[int, int] | None:
        """(width, height) of the upright image; ``None``, and a finding, where it is unusable.

        ``stated`` is the size in the annotation file ``source``.
        """
        size = self.trusted_size(stated)
        return size if size is not None else self.source.sizes.check_size(path, stated, source, self.findings)

    def trusted_size(self, stated: tuple[float, float] | None) -> tuple[int, int] | None:
        """The stated size where it is enough, so that the image is not opened."""
        if self.source.require_images or stated is None or min(stated) < 1:
            return None
        return int(stated[0]), int(stated[1])
