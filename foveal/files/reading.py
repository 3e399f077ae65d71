"""Reads untrusted files: folders with link loops, text in any encoding, JSON, XML and YAML.

Nothing in a file is executed, and no reference in it is followed or expanded.
"""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from html.entities import html5
from pathlib import Path
from typing import Any

import defusedxml.ElementTree as safe_xml
import yaml
from defusedxml.common import DefusedXmlException

from ..errors import FovealError

_TEXT_LIMIT = 64 << 20  # larger files are not annotations of one image
_JSON_LIMIT = 8 << 30
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_HTML_ENTITY = re.compile(rb"&([A-Za-z][A-Za-z0-9]*);")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")


class Unreadable(Exception):
    """A file that cannot be read in its format; readers turn it into a finding."""

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


def walk(root: Path, *, recursive: bool = True, refused: list[Path] | None = None) -> Iterator[tuple[str, list[str]]]:
    """(folder, sorted file names), depth first and sorted; follows links but never twice into the same folder.

    Hidden files and folders are skipped (``.DS_Store``, ``.ipynb_checkpoints``, ``__MACOSX``). Folders that cannot be
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
    """The bytes of a regular file. Raises :class:`Unreadable`."""
    try:
        if not path.is_file():
            raise Unreadable("not a regular file" if path.exists() else "no such file")
        if path.stat().st_size > limit:
            raise Unreadable(f"{path.stat().st_size:,} bytes are too large for an annotation file")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Unreadable(f"cannot be read ({reason})", "Check its permissions") from None


def decode_text(data: bytes) -> tuple[str, bool]:
    """Text, and whether its encoding was guessed: UTF-8 or UTF-16 by byte-order mark, UTF-8, else Windows-1252."""
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
    """Text of a small file, and whether its encoding was guessed. Raises :class:`Unreadable`."""
    data = read_bytes(path)
    _refuse_foreign(data)
    text, guessed = decode_text(data)
    if "\0" in text:
        raise Unreadable("binary data, not text", "Copy or download it again")
    return text, guessed


def read_lines(path: Path) -> list[str]:
    """The non-blank lines, stripped. Raises :class:`Unreadable`."""
    return [line.strip() for line in read_text(path)[0].splitlines() if line.strip()]


class JsonOddities:
    """What is odd about a JSON document that could be read."""

    def __init__(self) -> None:
        self.guessed = False  # its encoding is not UTF-8 and was guessed
        self.repeated: list[tuple[str, Any, Any]] = []  # key, first and last value of a key that an object has twice

    def object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """The object of these keys and values; of a repeated key the last value."""
        found = dict(pairs)
        if len(found) < len(pairs):
            first: dict[str, Any] = {}
            for key, value in pairs:
                if first.setdefault(key, value) != value:
                    self.repeated.append((key, first[key], value))
        return found


def read_json(path: Path, oddities: JsonOddities | None = None) -> Any:
    """A JSON document, whose ``oddities`` are collected. Raises :class:`Unreadable`, also for excessive nesting."""
    data = read_bytes(path, _JSON_LIMIT)
    if not data.strip():
        raise Unreadable("an empty file", "Export or download it again")
    hook = None if oddities is None else oddities.object
    try:
        # json detects UTF-8, -16 and -32 in bytes, where it also accepts a byte-order mark
        return json.loads(data, object_pairs_hook=hook)
    except json.JSONDecodeError as error:
        _refuse_foreign(data)
        what = f"not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise Unreadable(what, "Export or download it again") from None
    except UnicodeDecodeError:
        try:
            document = json.loads(data.decode("cp1252"), object_pairs_hook=hook)
        except ValueError:
            raise Unreadable("not valid JSON (binary data)", "Export or download it again") from None
        if oddities is not None:
            oddities.guessed = True
        return document
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; excessive nesting
        raise Unreadable(f"not valid JSON: {str(error)[:80]}", "Export it again") from None


class YamlOddities:
    """What is odd about a YAML document that could be read."""

    def __init__(self) -> None:
        self.tags: list[tuple[str, int]] = []  # tags that are not YAML's own, such as !!python/object, and their lines
        self.repeated: list[tuple[str, int]] = []  # keys that a mapping has twice, and their lines
        self.tabs = 0  # the first line that a tab indents

    def collect(self, node: yaml.Node | None) -> None:
        """The oddities of a node and of all below it."""
        seen: set[int] = set()
        stack = [] if node is None else [node]
        while stack:
            top = stack.pop()
            if id(top) in seen:
                continue
            seen.add(id(top))
            if top.tag.removeprefix(_YAML) not in _YAML_TAGS:
                self.tags.append((top.tag.replace(_YAML, "!!"), top.start_mark.line + 1))
            if isinstance(top, yaml.MappingNode):
                keys = Counter(key.value for key, _ in top.value if isinstance(key, yaml.ScalarNode))
                self.repeated += [(key, top.start_mark.line + 1) for key, n in keys.items() if n > 1]
                stack += [child for pair in reversed(top.value) for child in reversed(pair)]
            elif isinstance(top, yaml.SequenceNode):
                stack += reversed(top.value)


_YAML = "tag:yaml.org,2002:"
_YAML_TAGS = frozenset(
    ["null", "bool", "int", "float", "binary", "timestamp", "omap", "pairs", "set", "str", "seq", "map", "merge"]
)


def read_yaml(path: Path, oddities: YamlOddities | None = None) -> Any:
    """A YAML document with every scalar as text, so that a class may be named ``no``. Raises :class:`Unreadable`.

    With ``oddities``, which are collected, tabs are read as spaces where the document is valid so.
    """
    text, _ = read_text(path)
    if text.count("*") > 10_000:  # aliases that refer to aliases
        raise Unreadable("a YAML file with thousands of aliases")
    tab = re.search(r"^ *\t", text, re.MULTILINE)
    try:
        try:
            return _load_yaml(text, oddities)
        except yaml.YAMLError:
            if oddities is None or tab is None:
                raise
            spaced = re.sub(r"^[ \t]+", lambda m: m[0].expandtabs(4), text, flags=re.MULTILINE)
            document = _load_yaml(spaced, oddities)
            oddities.tabs = text.count("\n", 0, tab.start()) + 1
            return document
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        location = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise Unreadable(f"not valid YAML: {problem}{location}", "Correct it") from None
    except (RecursionError, ValueError, TypeError) as error:
        raise Unreadable(f"not valid YAML: {str(error)[:80]}", "Correct it") from None


def _load_yaml(text: str, oddities: YamlOddities | None) -> Any:
    loader = yaml.BaseLoader(text)  # constructs only str, list and dict
    try:
        node = loader.get_single_node()
        if oddities is not None:
            oddities.collect(node)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def read_xml(path: Path, limit: int = _TEXT_LIMIT) -> tuple[ElementTree.Element, bool]:
    """The root of an XML file, and whether its encoding was guessed. Raises :class:`Unreadable`.

    A document type, which every XML attack needs, is rejected, as are entities and more than ``limit`` bytes.
    """
    data = read_bytes(path, limit)
    if not data.strip():
        raise Unreadable("an empty file", "Export or download it again")
    _refuse_foreign(data)
    data = _HTML_ENTITY.sub(_plain_entity, data)
    try:
        return _parse(data), False
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        first = error
    # the declaration may be wrong or missing: try the likely encodings
    declared = _DECLARED.match(data)
    names = [declared.group(1).decode()] if declared else []
    for encoding in [*names, "utf-8-sig", "utf-16", "cp1252"]:
        try:
            text = _DECLARATION.sub("", data.decode(encoding), count=1)
            return _parse(text.lstrip("\ufeff \t\r\n")), encoding not in names
        except (ElementTree.ParseError, ValueError, LookupError):
            continue
    raise Unreadable(f"not valid XML: {first}", "Export or download it again")


def _plain_entity(match: re.Match[bytes]) -> bytes:
    """An entity of HTML, which XML does not have (``&eacute;``), as a number; XML's own as they are."""
    name = match.group(1).decode()
    text = None if name in ("amp", "lt", "gt", "quot", "apos") else html5.get(f"{name};")
    return match.group() if text is None else "".join(f"&#{ord(c)};" for c in text).encode()


def _parse(source: bytes | str) -> ElementTree.Element:
    # Every XML attack needs a document type, which in each encoding that Expat supports contains these bytes, or zeros
    # in UTF-16. Without them the C parser is safe, and three times as fast.
    data = source.encode() if isinstance(source, str) else source
    plain = not any(mark in data for mark in (b"<!DOCTYPE", b"<!ENTITY", b"\0"))
    try:
        root = ElementTree.fromstring(source) if plain else safe_xml.fromstring(source, forbid_dtd=True)
    except DefusedXmlException:
        raise Unreadable("XML with a document type or entities, which annotations do not need", "Remove them") from None
    except RecursionError:
        raise Unreadable("XML with excessive nesting") from None
    if root is None:
        raise ValueError("no element")
    return root


def is_lfs_pointer(data: bytes) -> bool:
    """Whether a file that begins with ``data`` is a git-lfs pointer instead of the file itself."""
    return data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(b"version https://git-lfs")


def _refuse_foreign(data: bytes) -> None:
    """Raises :class:`Unreadable` for a file that is there instead of another, by a common mistake."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        raise Unreadable("an HTML page (a failed download?)", "Export or download it again")
    if is_lfs_pointer(data):
        raise Unreadable("a git-lfs pointer, not the file itself", "Run: git lfs pull")
    if data and not any(data[:4096]):
        raise Unreadable("only zero bytes", "Export or download it again")


def check_exists(path: Path) -> None:
    """Raises :class:`FovealError` for a path that does not exist or cannot be read."""
    try:
        if not path.exists():
            raise FovealError("no such file or folder", path=path, fix="Check the path")
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            raise FovealError("cannot be read (permission denied)", path=path, fix="Change its permissions")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FovealError(f"cannot be opened ({reason})", path=path) from None
