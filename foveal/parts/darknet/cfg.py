"""Reads Darknet's network files (``.cfg``) into sections with line numbers, and ``.names`` files. No torch.

The grammar is Darknet's: ``[section]`` lines, ``key=value`` lines in which blanks are ignored, and comments after ``#``
or ``;``. Of a key that is repeated in a section the first counts. The layers are in ``layers.py``; ``notes.py`` tells
what of a cfg is ignored.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import FovealError

_LONGEST = 1 << 20  # characters; real cfgs have 1,000 to 80,000
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Section:
    """One ``[kind]`` of a cfg: its line, and the text and line of every key."""

    kind: str
    line: int
    values: Mapping[str, tuple[str, int]]
    path: str | Path | None = None  # of the file, for errors
    raw: Mapping[str, str] = field(default_factory=dict)  # the values with their blanks
    repeated: Mapping[str, int] = field(default_factory=dict)  # keys that are set again, and in which line

    def error(self, message: str, *, key: str = "", fix: str = "") -> FovealError:
        """The error with the section's line, or that of one of its keys."""
        line = self.values[key][1] if key in self.values else self.line
        return FovealError(message, path=self.path, where=f"line {line} [{self.kind}]", fix=fix)

    def has(self, key: str) -> bool:
        return key in self.values

    def text(self, key: str, default: str | None = None) -> str:
        """The value as text; without a default the key is required."""
        if key in self.values:
            return self.values[key][0]
        if default is None:
            raise self.error(f"{key} is missing", fix=f"Add a line {key}=... to [{self.kind}]")
        return default

    def number(self, key: str, default: float | None = None) -> float:
        values = self.numbers(key, None if default is None else (default,))
        if len(values) != 1:
            raise self.error(f"{key} is {self.text(key)!r}, expected one number", key=key)
        return values[0]

    def numbers(self, key: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """Comma-separated numbers; a trailing comma, usual in Darknet's files, is ignored."""
        if key not in self.values and default is not None:
            return default
        text = self.text(key)
        if not text:
            raise self.error(f"{key} has no value", key=key, fix=f"Write {key}= and a number, or remove the line")
        return self._numbers(key, text.rstrip(",").split(","))

    def _numbers(self, key: str, parts: list[str]) -> tuple[float, ...]:
        values = tuple(float(part) if _NUMBER.fullmatch(part) else math.nan for part in parts)
        if not all(map(math.isfinite, values)):
            raise self.error(f"{key} is {_short(self.text(key))}, expected a number", key=key)
        return values

    def integer(self, key: str, default: int | None = None, *, minimum: int | None = None) -> int:
        value = self.number(key, default)
        if value != int(value):
            raise self.error(f"{key} is {self.text(key)}, expected a whole number", key=key)
        if minimum is not None and value < minimum:
            raise self.error(f"{key} is {int(value)}, expected {minimum} or more", key=key)
        return int(value)

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Whole numbers; here blanks separate too: ``0 1 2`` cannot mean 12."""
        values = self._numbers(key, self._words(key)) if self.separated(key) else self.numbers(key, default)
        if any(v != int(v) for v in values):
            raise self.error(f"{key} is {self.text(key)}, expected whole numbers", key=key)
        return tuple(map(int, values))

    def flag(self, key: str, default: bool = False) -> bool:
        return self.integer(key, int(default)) != 0

    def pairs(self, key: str, count: int) -> tuple[tuple[float, float], ...]:
        """``1,2, 3,4`` -> ((1, 2), (3, 4)).

        Where the pairs are not ``count``, but are with blanks as commas (``1,2 3,4``), blanks separate numbers too.
        """
        spaced = self.spaced(key, 2 * count)
        values = self._numbers(key, self.raw[key].replace(",", " ").split()) if spaced else self.numbers(key)
        if len(values) % 2:
            raise self.error(f"{key} has {len(values)} numbers, expected pairs", key=key)
        return tuple(zip(values[::2], values[1::2], strict=True))

    def separated(self, key: str) -> bool:
        """Whether blanks alone separate numbers of this list."""
        words = self._words(key)
        return len(words) > len(self.text(key, "").rstrip(",").split(",")) and all(map(_NUMBER.fullmatch, words))

    def _words(self, key: str) -> list[str]:
        parts = self.raw.get(key, "").strip().rstrip(",").split(",")
        return [word for part in parts for word in part.split() or [""]]

    def spaced(self, key: str, count: int) -> bool:
        """Whether blanks separate numbers of this list, without which there were not ``count`` of them."""
        merged = len(self.text(key, "").rstrip(",").split(","))
        return merged != count and len(self.raw.get(key, "").replace(",", " ").split()) == count

    def refuse(self, **supported: float) -> None:
        """Raises for a setting that would change what the layer computes and has another than its supported value."""
        for key, value in supported.items():
            if self.has(key) and self.number(key) != value:
                raise self.error(f"{key}={self.text(key)} is not supported, only {key}={value:g}", key=key)


def read_sections(text: str, path: str | Path | None = None) -> tuple[Section, list[Section]]:
    """The ``[net]`` section and the layers' sections, in order.

    Raises :class:`FovealError` with the line of what is not a cfg: text before the first section, a line that is
    neither a section nor ``key=value``, a first section that is not ``[net]``, no layer at all.
    """
    sections: list[Section] = []
    values: dict[str, tuple[str, int]] = {}
    raw: dict[str, str] = {}
    repeated: dict[str, int] = {}
    if len(text) > _LONGEST:
        raise FovealError(f"has {len(text):,} characters, which no cfg has", path=path)
    for number, line in enumerate(text.splitlines(), 1):
        spaced = line.split("#", 1)[0].split(";", 1)[0].lstrip("\ufeff")
        bare = "".join(spaced.split())
        if not bare:
            continue
        if bare.startswith("["):
            if not bare.endswith("]") or len(bare) < 3:
                raise FovealError(
                    f"{_short(line)} is not a section", path=path, where=f"line {number}", fix="Write [name]"
                )
            values, raw, repeated = {}, {}, {}
            sections.append(Section(bare[1:-1].lower(), number, values, path, raw, repeated))
            continue
        key, equals, value = bare.partition("=")
        if not sections or not equals or not key:
            expected = "a key=value line" if sections else "[net]"
            fix = _other_file(bare, text) if not sections else ""
            raise FovealError(f"{_short(line)}, expected {expected}", path=path, where=f"line {number}", fix=fix)
        if "=" in value:
            fix = "Write one setting on a line"
            raise FovealError(f"{_short(line)} sets two keys", path=path, where=f"line {number}", fix=fix)
        if key in values:
            repeated.setdefault(key, number)
            continue
        values[key], raw[key] = (value, number), spaced.partition("=")[2]
    if not sections:
        raise FovealError("is empty, expected the sections of a Darknet cfg", path=path)
    if sections[0].kind not in ("net", "network"):
        raise sections[0].error(
            "the first section is not [net]", fix="Begin with [net], the width and height of the input"
        )
    if len(sections) == 1:
        raise sections[0].error("there is no layer after [net]")
    return sections[0], sections[1:]


def read_cfg_text(path: str | Path) -> str:
    """The text of a cfg file. Raises :class:`FovealError` for a file that cannot be read or is not a text."""
    return _read_text(Path(path), "a Darknet cfg")


def read_names(path: str | Path) -> tuple[str, ...]:
    """The class names of a ``.names`` file, one a line; empty lines at the end mean nothing."""
    lines = [line.strip() for line in _read_text(Path(path), "a list of names").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if lines and lines[0].lower() in ("[net]", "[network]"):
        raise FovealError("is a cfg, not a list of names", path=path, fix="Give it as --cfg, and as --names the .names")
    for number, name in enumerate(lines, 1):
        if not name:
            raise FovealError("is empty, expected a class name", path=path, where=f"line {number}")
        if name in lines[: number - 1]:
            first = lines.index(name) + 1
            raise FovealError(f"{name!r} is in line {first} already", path=path, where=f"line {number}")
    if not lines:
        raise FovealError("has no names", path=path, fix="Write one class name on each line")
    return tuple(lines)


def _read_text(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
    except OSError as error:
        raise FovealError(f"cannot be read ({error.strerror})", path=path, fix=f"Give {what}") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    if b"\0" in content or len(content) > _LONGEST:
        raise FovealError(f"is not {what}, which is a short text", path=path, fix=f"Give {what}")
    return content.decode("utf-8-sig", "replace")


def _other_file(line: str, text: str) -> str:
    """What to do about a text that begins with ``line``, and not with a section."""
    if line.lower().startswith(("<!doctype", "<html")):
        return "This is a web page: download the file itself (Raw on GitHub)"
    if line.startswith("versionhttps://git-lfs"):
        return "This is a git-lfs pointer: run `git lfs pull` where it comes from"
    if line.startswith(("classes=", "train=", "valid=", "names=", "backup=")):
        return "This is a .data file: give the .cfg of the network"
    return "Begin the cfg with [net]" if "[" in text else "Give a .cfg file, which begins with [net]"


def _short(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
