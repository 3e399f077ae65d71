"""Finds the tables of boxes (CSV) among the files of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..formats.tables.columns import find_columns
from ..formats.tables.reader import CsvSource
from ..formats.tables.rows import first_rows
from .documents import split_by_name
from .kinds import read_head
from .listing import Listing, common_folder, image_roots_of

_HEAD = 1 << 16  # bytes of a table that are looked at


def find_tables(listing: Listing, images: Path | None) -> list[CsvSource]:
    """The tables of a folder as one dataset."""
    tables = [file for file in listing.tables if is_table(file)]
    if not tables:
        return []
    base = common_folder(tables, listing.root)
    roots = (listing.root,) if listing.images else image_roots_of(tables[0])
    class_file = _class_table([file for file in listing.tables if file not in tables])
    return [CsvSource(base, tables, (images,) if images else roots, split_by_name(tables), class_file)]


def open_table(file: Path, images: Path | None) -> CsvSource:
    """The dataset of one table."""
    near = sorted(path for path in file.parent.iterdir() if path != file and path.suffix.lower() == ".csv")
    class_file = _class_table([path for path in near if not is_table(path)])
    return CsvSource(file, [file], (images,) if images else image_roots_of(file), None, class_file)


def is_table(file: Path) -> bool:
    """Whether a file is a table of boxes."""
    head = read_head(file, _HEAD)
    return find_columns(first_rows(head, len(head) < _HEAD)) is not None


def _class_table(files: Sequence[Path]) -> Path | None:
    """The table of class names, as Open Images (``class-descriptions-boxable.csv``) and RetinaNet have it."""
    named = [file for file in files if "class" in file.stem.lower()]
    return named[0] if len(named) == 1 else None
