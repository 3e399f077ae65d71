"""Finds the tables of boxes (CSV) among the files of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..formats.class_list import CLASS_FILES
from ..formats.rows import first_rows
from ..formats.tables.box_lists import BoxListSource
from ..formats.tables.columns import find_columns
from ..formats.tables.reader import CsvSource
from .documents import split_by_name
from .kinds import read_head, text_kind
from .listing import Listing, common_folder, image_roots_of

_FEW_TEXTS = 20  # in a folder: more are label files, and no tables that are called .txt
_HEAD = 1 << 16  # bytes of a table that are looked at


def find_tables(listing: Listing, images: Path | None) -> list[CsvSource]:
    """The tables of a folder as one dataset."""
    texts = [folder / n for folder, names in listing.texts.items() if len(names) <= _FEW_TEXTS for n in names]
    tables = [file for file in [*listing.tables, *texts] if is_table(file)]
    if not tables:
        return []
    base = common_folder(tables, listing.root)
    roots = (listing.root,) if listing.images else image_roots_of(tables[0])
    class_file = _class_file([file for file in listing.tables if file not in tables], [listing.root, base])
    return [CsvSource(base, tables, (images,) if images else roots, split_by_name(tables), class_file)]


def find_box_lists(listing: Listing, images: Path | None) -> list[BoxListSource]:
    """The lists of images with boxes in a folder as one dataset."""
    files = [f / n for f, names in listing.texts.items() if len(names) <= _FEW_TEXTS for n in names]
    lists = [file for file in files if text_kind(file) == "boxes"]
    if not lists:
        return []
    base = common_folder(lists, listing.root)
    roots = (listing.root,) if listing.images else image_roots_of(lists[0])
    class_file = _class_file([], [listing.root, base, *(folder for folder in listing.texts)])
    return [BoxListSource(base, lists, (images,) if images else roots, split_by_name(lists), class_file)]


def open_table(file: Path, images: Path | None) -> CsvSource:
    """The dataset of one table."""
    near = sorted(path for path in file.parent.iterdir() if path != file and path.suffix.lower() == ".csv")
    class_file = _class_file([path for path in near if not is_table(path)], [file.parent])
    return CsvSource(file, [file], (images,) if images else image_roots_of(file), None, class_file)


def open_box_list(file: Path, images: Path | None) -> BoxListSource:
    """The dataset of one list of images with boxes."""
    class_file = _class_file([], [file.parent])
    return BoxListSource(file, [file], (images,) if images else image_roots_of(file), None, class_file)


def is_table(file: Path) -> bool:
    """Whether a file is a table of boxes."""
    head = read_head(file, _HEAD)
    return find_columns(first_rows(head, len(head) < _HEAD)) is not None


def _class_file(tables: Sequence[Path], folders: Sequence[Path]) -> Path | None:
    """The list of class names, if there is one: a table, as Open Images and RetinaNet have it, or ``classes.txt``."""
    named = [file for file in tables if "class" in file.stem.lower()]
    if not named:
        files = [path for folder in dict.fromkeys(folders) for path in folder.iterdir()]
        named = [path for path in files if path.name.lower() in CLASS_FILES or path.suffix == ".names"]
        named = named or [path for path in files if path.name.lower().endswith("classes.txt")]  # voc_classes.txt
    return named[0] if len(named) == 1 else None
