"""Reads one line of a YOLO label file: a class and numbers, with whatever is between them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..validate import number

_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+|[-+]?\d+")
_DECIMALS = re.compile(r"\d*\.(\d*)")
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
