"""The images that a call names: files, folders, patterns, lists of names in text files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

from ..data.images.load import ImageError, find_images, is_image
from ..errors import FovealError
from ..files.outputs import output_kind

LISTS = (".txt", ".lst", ".list")  # endings of a text file with a name a line
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")  # Path makes one slash of two
_LONGEST = 1 << 28  # bytes of a list


def images_of(source: str) -> list[str]:
    """The images that one word stands for. Raises :class:`FovealError` where there is none, and for an address."""
    path = Path(source)
    if path.is_dir():
        return _inside(path)
    if path.exists():
        if path.suffix.lower() in LISTS and path.is_file():
            return read_list(path.read_bytes()[: _LONGEST + 1], str(path), path.parent)
        if what := output_kind(path):
            raise FovealError(f"{what}, not an image", path=path, fix="Give images, or a text file that lists them")
        return [source]
    if address := _ADDRESS.match(source):
        return [_local(source, address[1])]
    if glob.has_magic(source):
        return _matches(source)
    return [source]


def _local(source: str, scheme: str) -> str:
    """The path of a ``file://`` address. Raises :class:`FovealError` for any other."""
    if scheme.lower() != "file":
        raise FovealError(
            "is an address, and images are not fetched", path=source, fix="Download it, and give the file"
        )
    return unquote(urlparse(source).path)


def _inside(folder: Path) -> list[str]:
    inside = [str(p) for p in find_images(folder)]
    if not inside:
        below = next((p for p in find_images(folder, recursive=True) if p.is_file()), None)
        where = "" if below is None else f"; there are some in folders below, such as {below}"
        raise FovealError(f"no image in this folder{where}", path=folder, fix=f"Give another folder, or '{folder}/**'")
    return inside


# ----------------------------------------------------------------------------------------------- patterns
def _matches(pattern: str) -> list[str]:
    """The images that a pattern matches. A part of it that exists under this very name is no pattern."""
    found: list[str] = []
    for one in dict.fromkeys((literal_folders(pattern), pattern.replace("[", "[[]"))):
        found = sorted(glob.glob(one, recursive=True))
        if found:
            break
    images = [p for p in found if Path(p).is_file() and is_image(Path(p))]
    if not images:
        others = f": it matches {len(found)} other files or folders, such as {found[0]}" if found else ""
        raise FovealError(f"no image matches this pattern{others}", path=pattern)
    return images


def literal_folders(pattern: str) -> str:
    """The pattern with its leading folders escaped as far as they exist under the very names."""
    parts = pattern.split("/")
    done = 0
    while done < len(parts) - 1 and os.path.lexists("/".join(parts[: done + 1]) or "/"):
        done += 1
    return "/".join([*(glob.escape(part) for part in parts[:done]), *parts[done:]])


# -------------------------------------------------------------------------------------------------- lists
def read_list(data: bytes, name: str, folder: Path) -> list[str]:
    """The images that a text names, one a line (or each before a zero byte): whole paths, or paths from ``folder`` or
    from the current folder.

    A mark of the encoding, line ends of any system, empty lines, lines that begin with ``#`` and quotes around a name
    are no part of a name. Names need not be UTF-8. Raises :class:`FovealError`, with ``name`` and line, for a text
    without names, for one that names no image that exists, and for a name that means two images.
    """
    if len(data) > _LONGEST:
        raise FovealError("is too large for a list of images", path=name)
    lines = [(i, line.strip("\r\n")) for i, line in enumerate(_lines(data), 1)]
    rows = [(i, line) for i, line in lines if line.strip() and not _is_comment(line, folder)]
    if not rows:
        raise FovealError("names no image", path=name, fix="Write the path of an image a line")
    files = [_listed(line, name, i, folder) for i, line in rows]
    if not any(map(os.path.exists, files)):
        raise FovealError(
            f"none of its {len(files)} lines names a file that exists (the first: {rows[0][1].strip()!r:.80})",
            path=name,
            fix=f"Write paths from {folder} or from the current folder, one a line",
        )
    return files


def _lines(data: bytes) -> Iterable[str]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return re.split(r"\r\n|\n|\r", data.decode("utf-16", "replace"))
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data:
        return map(os.fsdecode, data.split(b"\0"))
    return map(os.fsdecode, re.split(rb"\r\n|\n|\r", data))


def _is_comment(line: str, folder: Path) -> bool:
    return line.lstrip().startswith("#") and not (os.path.exists(line) or (folder / line).exists())


def _listed(line: str, name: str, number: int, folder: Path) -> str:
    """The path that a line of a list means."""
    text, where = line.strip(), f"line {number}"
    if address := _ADDRESS.match(text):
        try:
            return _local(text, address[1])
        except FovealError as error:
            raise FovealError(f"{text} {error.message}", path=name, where=where, fix=error.fix) from None
    bare = text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'" else text
    for form in dict.fromkeys((line, text, bare, bare.replace("\\", "/"))):
        here, there = Path(form), folder / form
        both = [path for path in (there, here) if path.exists()]
        if len(both) == 2 and not both[0].samefile(both[1]):
            raise FovealError(
                f"{form} may be {there} or the one in the current folder",
                path=name,
                where=where,
                fix="Write whole paths",
            )
        if both:
            return str(both[-1] if len(both) == 2 else both[0])
    return str(folder / bare)


def refuse_all(skipped: Sequence[ImageError]) -> None:
    """Raises :class:`FovealError` for images none of which can be read."""
    if len(skipped) == 1:
        raise skipped[0]
    shown = "; ".join(map(str, skipped[:3]))
    raise FovealError(f"none of the {len(skipped)} images can be read: {shown}")
