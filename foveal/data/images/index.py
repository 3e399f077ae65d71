"""Finds the image that an annotation names."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from ...files.reading import walk
from .load import EXTENSIONS


class ImageIndex:
    """The images below some folders, indexed by file name and by stem."""

    def __init__(self, *roots: Path) -> None:
        self.roots = roots
        self._homes: dict[str, Path] = {}
        self.paths: list[Path] = []
        self.refused: list[Path] = []  # folders that cannot be listed
        self._by_name: dict[str, list[Path]] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for root in roots:
            for base, names in walk(root, refused=self.refused):
                for name in names:
                    stem, suffix = os.path.splitext(name)
                    if suffix.lower() in EXTENSIONS:
                        path = Path(base, name)
                        self.paths.append(path)
                        self._by_name.setdefault(name, []).append(path)
                        self._by_stem.setdefault(stem, []).append(path)

    def __len__(self) -> int:
        return len(self.paths)

    def named(self, file_name: str, prefer: str = "") -> list[Path]:
        """Images for a name as annotation files write it: ``a.jpg``, ``train/a.jpg``, ``C:\\x\\a.jpg``, a URL.

        The longest matching end of the path decides, so nothing outside the folders is ever opened.
        """
        parts = _parts(file_name)
        return _closest(self._by_name.get(parts[-1], []) if parts else [], parts[:-1], prefer)

    def home(self, prefer: str = "") -> Path:
        """The likely folder of a missing image: the one with the most images, below ``prefer`` if it has any."""
        if prefer not in self._homes:
            folders = Counter(path.parent for path in self.paths)
            inside = Counter({f: n for f, n in folders.items() if prefer in f.parts})
            self._homes[prefer] = max(inside or folders or {self.roots[0]: 1}, key=lambda f: (folders[f], f))
        return self._homes[prefer]

    def stem(self, stem: str, near: tuple[str, ...] = (), prefer: str = "") -> list[Path]:
        """Images whose name without its extension is ``stem``; ``near``: the folder names of its annotation."""
        return _closest(self._by_stem.get(stem, []), list(near), prefer)


def _parts(name: str) -> list[str]:
    name = name.split("?")[0] if "://" in name else name
    return [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..")]


def _closest(paths: list[Path], folders: list[str], prefer: str) -> list[Path]:
    """The ``paths`` whose folders match ``folders`` best; a folder called ``prefer`` breaks ties."""
    if len(paths) < 2:
        return paths

    def score(path: Path) -> tuple[int, int]:
        have = path.parts[:-1]
        same = 0
        while same < min(len(folders), len(have)) and folders[-1 - same] == have[-1 - same]:
            same += 1
        return same, int(bool(prefer) and prefer in have)

    best = max(score(path) for path in paths)
    return [path for path in paths if score(path) == best]
