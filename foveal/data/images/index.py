"""Finds the image that an annotation names."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from ...files.reading import walk


class ImageIndex:
    """The images below some folders, to be found by relative name, by stem, or by file name alone."""

    def __init__(self, *roots: Path) -> None:
        from .load import EXTENSIONS  # images.py walks with this module

        self.roots = roots
        self._homes: dict[str, Path] = {}
        self.paths: list[Path] = []
        self.refused: list[Path] = []  # folders that may not be listed
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

        The longest part of the written path that agrees decides, so nothing outside the folders is ever opened.
        """
        parts = _parts(file_name)
        return _closest(self._by_name.get(parts[-1], []) if parts else [], parts[:-1], prefer)

    def home(self, prefer: str = "") -> Path:
        """The folder where a missing image most likely belongs: that of most images, in ``prefer`` if there are any."""
        if prefer not in self._homes:
            folders = Counter(path.parent for path in self.paths)
            inside = Counter({f: n for f, n in folders.items() if prefer in f.parts})
            self._homes[prefer] = max(inside or folders or {self.roots[0]: 1}, key=lambda f: (folders[f], f))
        return self._homes[prefer]

    def stem(self, stem: str, near: tuple[str, ...] = (), prefer: str = "") -> list[Path]:
        """Images whose name without its ending is ``stem``; ``near`` are the folder names of its annotation."""
        return _closest(self._by_stem.get(stem, []), list(near), prefer)


def _parts(name: str) -> list[str]:
    name = name.split("?")[0] if "://" in name else name
    return [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..")]


def _closest(paths: list[Path], folders: list[str], prefer: str) -> list[Path]:
    """Those of ``paths`` whose folders agree best with ``folders``; a folder called ``prefer`` decides ties."""
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
