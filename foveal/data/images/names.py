"""Normal forms of file names: tools spell the name of one file in many ways.

``FORMS`` are applied one after the other, to the names in annotations and to those of files alike, so that a name
matches a file as soon as both have the same form; the earliest form decides.
"""

from __future__ import annotations

import base64
import html
import os
import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, unquote, unquote_to_bytes

_QUERY = ("d", "fileuri", "file", "filename", "path", "url", "image", "src")  # parameters that hold the path of a file
# Label Studio: eight hex digits or a UUID in front; Roboflow: the extension and a hash behind
_UPLOAD_PREFIX = re.compile(r"^(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{8})(?:-|__)(?=.)")
_UPLOAD_SUFFIX = re.compile(r"(?<=.)_(?:jpe?g|png|bmp|tiff?|webp|gif|heic|avif)\.rf\.[0-9a-z]{8,}$")
_ODD = re.compile(r"""[%&"'\s\\/:?]""")
_ESCAPED = re.compile(r"#[uU]([0-9a-fA-F]{4})")  # unzip's form of a character that it cannot write


@dataclass(frozen=True)
class Way:
    """How a name led to a file: ``code`` for findings, ``phrase`` for their text."""

    code: str
    phrase: str


EXACT = Way("", "")
ADDRESS = Way("name-address", "by the path within a web address")
FOLDER = Way("name-folder", "by the base name alone, in another folder than the one named")
EXTENSION = Way("name-extension", "with another extension")
DECODED = Way("name-decoded", "after decoding percent signs, entities or blanks")
UNICODE = Way("name-unicode", "in another Unicode form")
CAPITALS = Way("name-capitals", "in other capitals")
UPLOAD = Way("name-upload", "without the prefix or suffix that Label Studio or Roboflow adds")
SEPARATORS = Way("name-separators", "with other separators or accents")


def path_parts(name: str) -> list[str]:
    """The parts of a path as any system writes it, without drives, ``.`` and ``..``; of a URL without its query."""
    name = name.split("?")[0] if "://" in name else name
    return [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..")]


# ------------------------------------------------------------------------------------------------- forms
def _decoded(name: str) -> str:
    """Percent signs (also doubly), HTML entities, quotes and blanks around; the last part of a path that appears."""
    if not _ODD.search(name):
        return name
    for _ in range(3):
        if "%" not in name:
            break
        name = _unquoted(name)
    name = html.unescape(name) if "&" in name else name
    parts = path_parts(name.strip().strip("\"'"))
    return re.sub(r"^[A-Za-z]:(?=.)", "", parts[-1]).strip() if parts else ""


def _unquoted(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return unquote_to_bytes(text).decode("cp1252", "replace")


def _composed(name: str) -> str:
    """Unicode NFC, with UTF-8 that was read as another encoding repaired."""
    if name.isascii():
        return _ESCAPED.sub(lambda m: chr(int(m.group(1), 16)), name) if "#" in name else name
    if any("\udc80" <= c <= "\udcff" for c in name):  # bytes of a name that is not UTF-8
        name = os.fsencode(name).decode("cp1252", "replace")
    for encoding in ("cp1252", "latin-1", "cp437"):
        try:
            name = name.encode(encoding).decode("utf-8")
            break
        except UnicodeError:
            continue
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    """Without capitals, compatibility characters (NFKC) and invisible ones."""
    if name.isascii():
        return name.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(c for c in folded if unicodedata.category(c) != "Cf")


def _original(stem: str) -> str:
    """A stem as it was before the upload to Label Studio or Roboflow."""
    return _UPLOAD_SUFFIX.sub("", _UPLOAD_PREFIX.sub("", stem))


def _letters(stem: str) -> str:
    """Letters and digits without accents; whatever is between them is one ``_``. A minus sign is no separator."""
    stem = re.sub(r"(?<![^\W_])-(?=\d)", "minus", stem)
    plain = "".join(c for c in unicodedata.normalize("NFKD", stem) if not unicodedata.combining(c))
    return re.sub(r"[\W_]+", "_", plain).strip("_") or stem


FORMS: tuple[Callable[[str], str], ...] = (_decoded, _composed, _folded, _original, _letters)
WAYS = (EXACT, DECODED, UNICODE, CAPITALS, UPLOAD, SEPARATORS)  # after so many of the forms
WHOLE = 3  # forms for names with their extension; the later ones are for stems


def normal_form(base: str, forms: int, endings: frozenset[str] | None = None) -> str:
    """A base name after the first ``forms`` of ``FORMS``; without its extension where that is one of ``endings``."""
    for form in FORMS[: min(forms, WHOLE)]:
        base = form(base)
    if endings is not None:
        stem, suffix = os.path.splitext(base)
        while suffix.strip().lower() in endings:
            base = stem.strip() if forms else stem
            stem, suffix = os.path.splitext(base) if forms else (base, "")  # a.jpg.jpg
    for form in FORMS[WHOLE:forms]:
        base = form(base)
    return base


def is_uploaded(base: str, endings: frozenset[str]) -> bool:
    """Whether a base name has what an upload adds. Two that have it are not the same file: dates look like prefixes."""
    return normal_form(base, WHOLE, endings) != normal_form(base, WHOLE + 1, endings)


@lru_cache(maxsize=1 << 15)
def spellings(name: str) -> list[tuple[list[str], Way]]:
    """The paths that a name may stand for, as parts: itself, then those in the query of an address, then decoded."""
    found = [(path_parts(name), EXACT)]
    address, _, query = name.partition("?")
    if query:
        values = dict(parse_qsl(query.partition("#")[0]))
        for key in _QUERY:
            text = values.get(key, "")
            if key == "fileuri":  # of a bucket, in base64
                with suppress(ValueError):
                    text = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode("utf-8")
            found.append((path_parts(text), ADDRESS))
        found.append((path_parts(address), ADDRESS))
    if "://" in name and "#" in name:
        found.append((path_parts(address.partition("#")[0]), ADDRESS))
    if "%" in name:
        found.append((path_parts(_unquoted(_unquoted(name))), DECODED))
    return [(parts, way) for parts, way in found if parts and "\0" not in name]
