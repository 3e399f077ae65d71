"""The rows of a CSV file, whatever its delimiter."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from ...files.reading import Unreadable, decode_text, read_bytes

DELIMITERS = (",", ";", "\t", "|")
_LARGEST = 4 << 30  # bytes
_LONGEST = 1 << 26  # characters of a cell: VIA's polygons are JSON
_SEPARATOR = re.compile(r"\ufeff?\"?sep=(.)\"?\r?\n", re.IGNORECASE)  # the first line of tables for Excel
_FIRST = 50  # rows that decide about delimiter and columns


def read_rows(file: Path) -> tuple[list[tuple[int, list[str]]], str, bool]:
    """(line, cells) of every row but blank ones at the end, the delimiter, and whether the encoding was guessed.

    Raises :class:`~foveal.files.reading.Unreadable`.
    """
    text, guessed = decode_text(read_bytes(file, _LARGEST))
    if "\0" in text:
        raise Unreadable("binary data, not text", "Copy or download it again")
    delimiter = find_delimiter(text)
    try:
        rows = list(_rows(text, delimiter, blank=True))
        while rows and not any(cell.strip() for cell in rows[-1][1]):
            rows.pop()
        return rows, delimiter, guessed
    except csv.Error as error:
        raise Unreadable(f"not a valid table ({error})", "Export it again") from None


def first_rows(head: bytes, complete: bool) -> list[list[str]]:
    """The first rows of a table by the first bytes of its file, of which the last line may be cut."""
    text, _ = decode_text(head)
    if "\0" in text:
        return []
    if not complete:
        text = text.rpartition("\n")[0]
    try:
        return [cells for _, cells in _some(_rows(text, find_delimiter(text)))]
    except csv.Error:
        return []


def find_delimiter(text: str) -> str:
    """The delimiter that divides the first rows into the most columns, the same number in nearly all of them."""
    stated = _SEPARATOR.match(text)
    if stated and stated.group(1) in DELIMITERS:
        return stated.group(1)
    best, most = ",", (0, 0)
    for delimiter in DELIMITERS:
        try:
            rows = [cells for _, cells in _some(_rows(text[: 1 << 16], delimiter))]
        except csv.Error:
            continue
        widths = [len(cells) for cells in rows if not any(cell.count('"') % 2 for cell in cells)]  # not within quotes
        usual = max(set(widths), key=widths.count, default=0)
        score = (int(usual > 1 and 2 * widths.count(usual) > len(rows)), usual)
        if score > most:
            best, most = delimiter, score
    return best


def _rows(text: str, delimiter: str, blank: bool = False) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST))
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
    for cells in reader:
        if reader.line_num == 1 and _SEPARATOR.match(text):
            continue
        if blank or any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _some(rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    for _, row in zip(range(_FIRST), rows, strict=False):
        yield row
