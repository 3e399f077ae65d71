"""Reads one line of a YOLO label file: a class and numbers, with whatever is between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..validate import number

_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+|[-+]?\d+")
_DECIMALS = re.compile(r"\d*\.(\d*)")
_SURE = 3  # lines that decide where the class is
_FIXED = 4  # decimals that programs write
_INSIDE = re.compile(r"(?<=\d),(?=\d)")


class Dialect(NamedTuple):
    """How lines were read that are not written as YOLO's are: ``code`` for findings, ``phrase`` for their text."""

    code: str
    phrase: str
    fix: str


COMMAS = Dialect(
    "line-separators", "have commas between the numbers, expected spaces", "Separate the numbers by spaces"
)
SEMICOLONS = Dialect(
    "line-separators", "have {0!r} between the numbers, expected spaces", "Separate the numbers by spaces"
)
DECIMALS = Dialect("decimal-commas", "have commas as decimal separators, expected points", "Write numbers like 0.5")
CLASS_LAST = Dialect("class-at-end", "have the class at the end, expected first", "Write the class first")
NAMED = Dialect("class-by-name", "name their class, expected its number", "Write the number of the class")


@dataclass(frozen=True)
class Line:
    """The columns of a line: the class as written, then texts that should be numbers."""

    n: int  # from 1
    label: str
    columns: tuple[str, ...]
    ways: tuple[Dialect, ...] = ()
    doubt: str = ""  # why it cannot be read, though it may look as if it could


def split_line(text: str, n: int, known: Callable[[str], bool]) -> Line:
    """The columns of a line that is not blank; ``known`` tells class names, which may have spaces in them."""
    tokens, ways, doubt = _tokens(text.strip())
    tokens = tokens or [text.strip()]  # separators and nothing else
    if doubt:
        return Line(n, tokens[0], tuple(tokens[1:]), doubt=doubt)
    last = max((k for k, token in enumerate(tokens) if number(token) is None), default=-1)
    label = " ".join(tokens[: last + 1]).strip("\"'")
    if last >= 0 and known(label):
        return Line(n, label, tuple(tokens[last + 1 :]), ways)
    return Line(n, tokens[0], tuple(tokens[1:]), ways)


def class_last(lines: Iterable[Line], classes: int) -> bool:
    """Whether all lines are a box in fractions and then the number of a class."""
    count = 0
    for line in lines:
        first, last = number(line.label), number(line.columns[-1]) if len(line.columns) == 4 else None
        if first is None or last is None or line.doubt or not 0 < first < 1:
            return False
        if last not in range(classes):
            return False
        count += 1
    return count >= _SURE


def with_class_first(line: Line) -> Line:
    """The line as if its last column were the first."""
    return Line(line.n, line.columns[-1], (line.label, *line.columns[:-1]), (*line.ways, CLASS_LAST))


def is_cut_off(text: str) -> bool:
    """Whether a label file ends within a number: no line break, and fewer decimals than all other numbers have."""
    if text[-1:].isspace():
        return False
    decimals = [len(match) for match in _DECIMALS.findall(text)]
    return len(decimals) > 3 and len(set(decimals[:-1])) == 1 and decimals[-1] < decimals[0] >= _FIXED


def _tokens(text: str) -> tuple[list[str], tuple[Dialect, ...], str]:
    """Columns, how they were read, and why that is in doubt."""
    plain = text.split()
    mark = next((mark for mark in ";|" if mark in text), "")
    if mark:
        tokens = [token.strip() for token in text.rstrip(f"{mark} ").split(mark)]
        way = SEMICOLONS._replace(phrase=SEMICOLONS.phrase.format(mark))
        if "," in text and "." not in text:
            return [token.replace(",", ".") for token in tokens], (way, DECIMALS), ""
        return tokens, (way,), ""
    if "," not in text:
        return plain, (), ""
    if "." not in text and len(plain) >= 5 and all(map(_DECIMAL_COMMA.fullmatch, plain[1:])):
        return [token.replace(",", ".") for token in plain], (DECIMALS,), ""
    if len(plain) >= 5 and text.count(",") == len(_INSIDE.findall(text)):
        return plain, (), ""  # a comma in a number among numbers with points: a typing error
    body = text.rstrip(", ")
    tokens = [token.strip() for token in body.split(",")]
    if len(tokens) < 5 or any(" " in token for token in tokens[1:]):
        tokens = [token for token in re.split(r"[,\s]+", body) if token]
    if "." not in text and len(tokens) > 6 and len(tokens) % 2:
        return tokens, (), "its commas may separate numbers or be decimal commas"
    return tokens, (COMMAS,), ""
