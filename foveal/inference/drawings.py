"""Writes the drawings of images into a folder, under names that never clash."""

from __future__ import annotations

import io
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import FovealError
from ..files.aliases import ImageArray
from ..files.atomic import write_bytes

if TYPE_CHECKING:
    from ..types import Detections

MARK = b"drawn by foveal predict"  # a comment in every drawing: only these are replaced
LONGEST = 255  # bytes of a file name


class Drawings:
    """The folder ``out`` for drawings of ``files``.

    A drawing is called after its image, ``dog.jpg``. Where two images would have one name, all keep their folders,
    ``one/dog.jpg``; those of one folder their endings too, ``one/dog.png.jpg``. Raises :class:`FovealError` where a
    drawing would replace an image, or a file that is no drawing.
    """

    def __init__(self, out: Path, files: Sequence[str]) -> None:
        if out.exists() and not out.is_dir():
            raise FovealError("is a file, not a folder", path=out, fix="Give a folder for the drawings")
        self.out = out
        self.targets = dict(zip(files, drawing_names(files), strict=True))
        sources = {os.path.realpath(name) for name in files}
        real = os.path.realpath(out)
        if any(os.path.dirname(source) == real for source in sources):
            raise FovealError(
                "the source images are in this folder", path=out, fix="Give another folder for the drawings"
            )
        for target in self.targets.values():
            path = out / target
            if os.path.realpath(path) in sources:
                raise FovealError(
                    "the drawings would replace the source images", path=path, fix="Give another folder for them"
                )
            if path.exists() and not _is_drawing(path):
                raise FovealError(
                    "exists, and is no drawing of foveal's", path=path, fix="Give another folder for the drawings"
                )

    def save(self, name: str, pixels: ImageArray, detections: Detections) -> Path:
        """Draws, writes and returns the path."""
        from .draw import draw

        target, data = self.out / self.targets[name], io.BytesIO()
        draw(pixels, detections).save(data, "JPEG", quality=92, comment=MARK)
        write_bytes(target, data.getvalue())
        return target


def drawing_names(files: Sequence[str]) -> list[str]:
    """A name for the drawing of each file, with its folder where names alone would clash."""
    bases = [os.path.basename(name) for name in files]
    names = [_jpg(_stem(base)) for base in bases]
    if _unique(names):
        return names
    whole = [os.path.abspath(name) for name in files]
    common = os.path.commonpath([os.path.dirname(name) for name in whole])
    folders = [os.path.relpath(os.path.dirname(name), common) for name in whole]
    joined = [os.path.normpath(os.path.join(folder, name)) for folder, name in zip(folders, names, strict=True)]
    counts = Counter(map(_key, joined))
    used: set[str] = set()
    out: list[str] = []
    for folder, base, name in zip(folders, bases, joined, strict=True):
        if counts[_key(name)] > 1:
            name = os.path.normpath(os.path.join(folder, base if base.lower().endswith(".jpg") else _jpg(base)))
        number, first = 2, name
        while _key(name) in used:
            name = os.path.join(os.path.dirname(first), _jpg(f"{_stem(os.path.basename(first))}-{number}"))
            number += 1
        used.add(_key(name))
        out.append(name)
    return out


def _stem(base: str) -> str:
    return os.path.splitext(base)[0]


def _jpg(stem: str) -> str:
    """With the ending, cut to what a file system takes."""
    kept = os.fsencode(stem)
    if len(kept) > LONGEST - 4:
        kept = kept[: LONGEST - 4 - 8]
        stem = f"{os.fsdecode(kept).encode('utf-8', 'surrogateescape').decode('utf-8', 'ignore')}~"
    return f"{stem}.jpg"


def _key(name: str) -> str:
    """What two names have in common that some file systems take for one."""
    return unicodedata.normalize("NFC", name).lower()


def _unique(names: Sequence[str]) -> bool:
    return len(set(map(_key, names))) == len(names)


def _is_drawing(path: Path) -> bool:
    try:
        with Image.open(path, formats=["JPEG"]) as image:
            return image.info.get("comment") == MARK
    except (OSError, ValueError):
        return False
