"""Finds the folders and text files that the entries of a split name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_SURE = 2  # parts of a path of another machine that must agree: many folders are called images


def locate(entry: str, bases: Sequence[Path], image_folder: Path | None = None) -> Path | None:
    """The folder or text file of an entry below one of the ``bases``; Roboflow's ``../train/images`` may be below."""
    if "\0" in entry:
        return None
    forms = [entry]
    trimmed = entry.replace("\\", "/")
    forms += [trimmed] if trimmed != entry else []
    while trimmed.startswith(("../", "./")):
        trimmed = trimmed.partition("/")[2]
        forms.append(trimmed)
    candidates = [base / form for form in forms for base in bases]
    if image_folder is not None:
        parts = [p for p in trimmed.split("/") if p]
        candidates += [image_folder.joinpath(*parts[k:]) for k in range(len(parts) + 1)]
    return _first(candidates)


def locate_elsewhere(entry: str, bases: Sequence[Path]) -> Path | None:
    """The folder or text file that is named so in other capitals, or by the end of a path of another machine."""
    if "\0" in entry:
        return None
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    ends = [parts[k:] for k in range(len(parts)) if k == 0 or len(parts) - k >= _SURE]
    found = (_in_any_capitals(base, end) for end in ends for base in bases)
    return _first(path for path in found if path is not None)


def _first(paths: Iterable[Path]) -> Path | None:
    for path in paths:
        try:
            if path.is_dir() or (path.suffix.lower() == ".txt" and path.exists()):
                return Path(os.path.normpath(path)) if ".." in path.parts else path
        except OSError:
            continue
    return None


def _in_any_capitals(base: Path, parts: Sequence[str]) -> Path | None:
    for part in parts:
        names = list(_names(base))
        alike = [name for name in names if name.lower() == part.lower()]
        if part not in names and len(alike) != 1:
            return None
        base = base / (part if part in names else alike[0])
    return base


def _names(folder: Path) -> Iterator[str]:
    try:
        yield from os.listdir(folder)
    except OSError:
        return
