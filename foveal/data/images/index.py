"""The images below some folders, found by the names that annotations use."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path

from ...files.reading import walk
from .load import EXTENSIONS
from .lookup import NameMatch, NameTable, Wanted


class ImageIndex:
    """The images below some folders."""

    def __init__(self, *roots: Path) -> None:
        self.roots = roots
        self.refused: list[Path] = []  # folders that cannot be listed
        self.paths: list[Path] = []
        for root in roots:
            for base, names in walk(root, refused=self.refused):
                self.paths += [Path(base, n) for n in names if os.path.splitext(n)[1].lower() in EXTENSIONS]
        self.paths = list(dict.fromkeys(self.paths))  # a root may be below another
        self._names = NameTable(self.paths, EXTENSIONS, roots)
        self._homes: dict[str, Path] = {}

    @cached_property
    def names(self) -> dict[str, Path]:
        """Base name -> one of the images of this name."""
        return {path.name: path for path in reversed(self.paths)}

    def __len__(self) -> int:
        return len(self.paths)

    def match(self, wanted: Sequence[Wanted], taken: Collection[Path] = ()) -> list[NameMatch]:
        """The image of each name, see :meth:`.lookup.NameTable.match`."""
        return self._names.match(wanted, taken)

    def home(self, prefer: str = "") -> Path:
        """The likely folder of a missing image: the one with the most images, below ``prefer`` if it has any."""
        if prefer not in self._homes:
            folders = Counter(path.parent for path in self.paths)
            inside = Counter({f: n for f, n in folders.items() if prefer in f.parts})
            self._homes[prefer] = max(inside or folders or {self.roots[0]: 1}, key=lambda f: (folders[f], f))
        return self._homes[prefer]
