"""Finding and reading files that somebody else wrote: folders with loops, text in any encoding, JSON, XML and YAML.

Nothing here executes, follows or expands anything that a file asks for.
"""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import defusedxml.ElementTree as safe_xml
import yaml
from defusedxml.common import DefusedXmlException

from ..errors import FovealError

_TEXT_LIMIT = 64 << 20  # an annotation file of one image beyond this is something else
_JSON_LIMIT = 8 << 30
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


class Unreadable(Exception):
    """A file that cannot be read as what it should be; the reader turns it into a finding."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


def walk(root: Path, *, recursive: bool = True, refused: list[Path] | None = None) -> Iterator[tuple[str, list[str]]]:
    """(folder, sorted file names), depth first and sorted; follows links but never twice into the same folder.

    Hidden files and folders stay out (``.DS_Store``, ``.ipynb_checkpoints``, ``__MACOSX``). Folders that may not be
    listed are added to ``refused``.
    """
    seen: set[tuple[int, int]] = set()
    stack = [str(root)]
    while stack:
        base = stack.pop()
        try:
            status = os.stat(base)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(base) as entries:
                visible = sorted((e for e in entries if not _hidden(e.name)), key=lambda e: e.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            if refused is not None:
                refused.append(Path(base))
            continue
        folders: list[str] = []
        names: list[str] = []
        for entry in visible:
            try:
                (folders if entry.is_dir() else names).append(entry.name)
            except OSError:  # a link into a loop
                names.append(entry.name)
        yield base, names
        if recursive:
            stack.extend(os.path.join(base, name) for name in reversed(folders))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def read_bytes(path: Path, limit: int = _TEXT_LIMIT) -> bytes:
    """The bytes of an ordinary file. Raises :class:`Unreadable`."""
    try:
        if not path.is_file():
            raise Unreadable("not an ordinary file" if path.exists() else "no such file")
        if path.stat().st_size > limit:
            raise Unreadable(f"{path.stat().st_size:,} bytes are too many for an annotation file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unreadable(f"cannot be read ({reason})", "Check its permissions") from None


def decode_text(data: bytes) -> tuple[str, bool]:
    """Text and whether its encoding had to be guessed: UTF-8 or UTF-16 by their marks, UTF-8, else Windows-1252."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16"), False
        except UnicodeDecodeError:
            pass
    try:
        return data.decode("utf-8-sig"), False
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), True


def read_text(path: Path) -> tuple[str, bool]:
    """Text of a small file, and whether its encoding had to be guessed. Raises :class:`Unreadable`."""
    data = read_bytes(path)
    text, guessed = decode_text(data)
    if "\0" in text:
        raise Unreadable("binary data, not text", "Copy or download it again")
    return text, guessed


def read_lines(path: Path) -> list[str]:
    """Lines that are not blank, stripped. Raises :class:`Unreadable`."""
    return [line.strip() for line in read_text(path)[0].splitlines() if line.strip()]


def read_json(path: Path) -> Any:
    """A JSON document. Raises :class:`Unreadable`, also for one nested beyond reason."""
    data = read_bytes(path, _JSON_LIMIT)
    if not data.strip():
        raise Unreadable("an empty file", "Export or download it again")
    try:
        # json reads UTF-8, -16 and -32 by itself, and refuses a byte-order mark only in text
        return json.loads(data)
    except json.JSONDecodeError as error:
        what = _foreign(data) or f"not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise Unreadable(what, "Export or download it again") from None
    except UnicodeDecodeError:
        try:
            return json.loads(data.decode("cp1252"))
        except ValueError:
            raise Unreadable("not valid JSON (binary data)", "Export or download it again") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; nesting without end
        raise Unreadable(f"not valid JSON: {str(error)[:80]}", "Export it again") from None


def read_yaml(path: Path) -> Any:
    """A YAML document with every scalar as text, so that a class named ``no`` stays one. Raises :class:`Unreadable`."""
    text, _ = read_text(path)
    if text.count("*") > 10_000:  # aliases that refer to aliases
        raise Unreadable("a YAML file with thousands of aliases")
    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # BaseLoader makes nothing but str, list and dict
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        what = _foreign(text.encode()) or f"not valid YAML: {problem}{place}"
        raise Unreadable(what, "Correct it") from None
    except (RecursionError, ValueError, TypeError) as error:
        raise Unreadable(f"not valid YAML: {str(error)[:80]}", "Correct it") from None


def read_xml(path: Path) -> tuple[ElementTree.Element, bool]:
    """The root of an XML file, and whether its encoding had to be guessed. Raises :class:`Unreadable`.

    A document type (the door of every XML attack) is refused, as are entities.
    """
    data = read_bytes(path)
    if not data.strip():
        raise Unreadable("an empty file", "Export or download it again")
    what = _foreign(data)
    if what:
        raise Unreadable(what, "Export or download it again")
    try:
        return _parse(data), False
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        first = error
    # The declaration may be wrong or missing: trust the bytes instead.
    declared = _DECLARED.match(data)
    names = [declared.group(1).decode()] if declared else []
    for encoding in [*names, "utf-8-sig", "utf-16", "cp1252"]:
        try:
            text = _DECLARATION.sub("", data.decode(encoding), count=1)
            return _parse(text.lstrip("\ufeff \t\r\n")), encoding not in names
        except (ElementTree.ParseError, ValueError, LookupError):
            continue
    raise Unreadable(f"not valid XML: {first}", "Export or download it again")


def _parse(source: bytes | str) -> ElementTree.Element:
    # Every XML attack needs a document type. Expat reads no encoding in which one could be written without these
    # bytes, but for UTF-16 and its zeros; where they are absent, the parser in C does, three times as fast.
    data = source.encode() if isinstance(source, str) else source
    plain = not any(mark in data for mark in (b"<!DOCTYPE", b"<!ENTITY", b"\0"))
    try:
        root = ElementTree.fromstring(source) if plain else safe_xml.fromstring(source, forbid_dtd=True)
    except DefusedXmlException:
        raise Unreadable("XML with a document type or entities, which are never needed here", "Remove them") from None
    except RecursionError:
        raise Unreadable("XML nested beyond reason") from None
    if root is None:
        raise ValueError("no element")
    return root


def _foreign(data: bytes) -> str | None:
    """What a file is, where it is a well-known mistake."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page (a download that went wrong?)"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file itself (run: git lfs pull)"
    if not any(data[:4096]):
        return "nothing but zero bytes"
    return None


def check_exists(path: Path) -> None:
    """Raises :class:`FovealError` for a path that is not there or may not be read."""
    try:
        if not path.exists():
            raise FovealError("no such file or folder", path=path, fix="Check the path")
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            raise FovealError("may not be read", path=path, fix="Change its permissions")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FovealError(f"cannot be opened ({reason})", path=path) from None
