"""Finds the datasets of annotation tools: LabelMe, CreateML, VIA, Label Studio, CVAT, dlib and Colabeler."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...files.reading import Unreadable, read_json
from ..formats.documents.colabeler import ColabelerSource
from ..formats.documents.createml import CreateMlSource
from ..formats.documents.cvat import CvatSource
from ..formats.documents.dlib import DlibSource
from ..formats.documents.label_studio import LabelStudioSource
from ..formats.documents.labelme import LabelMeSource
from ..formats.documents.via import ViaSource
from ..formats.documents.via3 import Via3Source
from ..formats.entry_source import EntrySource
from ..formats.rows import first_rows
from ..records.splits import split_word
from .kinds import is_damaged, read_head, xml_kind
from .listing import Listing, common_folder, image_roots_of

_SOURCES: dict[str, type[EntrySource]] = {
    "labelme": LabelMeSource,
    "createml": CreateMlSource,
    "via": ViaSource,
    "via3": Via3Source,
    "label-studio": LabelStudioSource,
    "label-studio-min": LabelStudioSource,
    "cvat": CvatSource,
    "dlib": DlibSource,
    "colabeler": ColabelerSource,
}
_SAMPLE = 200  # XML files of a folder that are looked at


def find_documents(listing: Listing, kinds: Mapping[Path, str], images: Path | None) -> list[EntrySource]:
    """The datasets of a folder, one for each tool."""
    groups: dict[type[EntrySource], list[Path]] = {}
    for file in listing.jsons:
        if kinds[file] in _SOURCES:
            groups.setdefault(_SOURCES[kinds[file]], []).append(file)
    of_tasks = [file for file in listing.tables if is_task_table(file)]
    if of_tasks:
        groups.setdefault(LabelStudioSource, []).extend(of_tasks)
    for of, files in groups.items():
        files += _damaged(listing, kinds, files, of.image_files)
    for folder, names in listing.xml.items():
        found = {name: xml_kind(folder / name) for name in names[:_SAMPLE]}
        for kind in sorted(set(found.values()) & _SOURCES.keys()):
            of = _SOURCES[kind]
            rest = names[_SAMPLE:] if of.image_files else []
            kept = ("", kind) if of.image_files else (kind,)
            groups.setdefault(of, []).extend(folder / n for n in [*(n for n, k in found.items() if k in kept), *rest])
    return [_open(of, sorted(files), listing, images) for of, files in groups.items()]


def open_document(file: Path, kind: str, images: Path | None) -> EntrySource | None:
    """The dataset of one file of a kind; ``None`` for kinds of other modules."""
    of = _SOURCES.get(kind)
    return None if of is None else of(file, [file], (images,) if images else _roots(of, [file], image_roots_of(file)))


def is_task_table(file: Path) -> bool:
    """Whether a table is Label Studio's: a row for each annotation, whose regions are JSON in a cell."""
    head = read_head(file, 1 << 16)
    rows = first_rows(head, len(head) < 1 << 16)
    return bool(rows) and {"annotation_id", "annotator"} <= set(rows[0])


def _damaged(listing: Listing, kinds: Mapping[Path, str], files: Sequence[Path], image_files: bool) -> list[Path]:
    """Files of no kind that must be reported and not ignored: empty or damaged ones beside ``files`` or called so."""
    homes, names = {file.parent for file in files}, {file.name for file in files}
    found = []
    for file in listing.jsons:
        if kinds[file] not in ("", "lfs") or not (file.parent in homes or file.name in names):
            continue
        if is_damaged(file) or (image_files and any(file.with_suffix(e).is_file() for e in (".jpg", ".png", ".jpeg"))):
            found.append(file)
    return found


def _open(of: type[EntrySource], files: list[Path], listing: Listing, images: Path | None) -> EntrySource:
    base = common_folder(files, listing.root)
    splits = split_by_folder(files, base) if of.image_files else split_by_name(files)
    roots = (listing.root,) if listing.images else _roots(of, files, image_roots_of(files[0]))
    return of(base, files, (images,) if images else roots, splits)


def split_by_folder(files: Sequence[Path], base: Path) -> dict[Path, str]:
    """File -> split by the folders below ``base``, where every file is in one of a split."""
    words: dict[Path, str | None] = {}
    for folder in {file.parent for file in files}:
        found = [w for part in folder.relative_to(base).parts if (w := split_word(part))]
        words[folder] = found[-1] if found else None
    return {} if None in words.values() else {file: str(words[file.parent]) for file in files}


def split_by_name(files: Sequence[Path]) -> dict[Path, str]:
    """File -> split by the names of files or folders; several files without such names are one undivided dataset."""
    if len(files) == 1:
        return {}
    words = {file: split_word(file.stem) or split_word(file.parent.name) for file in files}
    if None not in words.values():
        return {file: str(word) for file, word in words.items()}
    stems = [file.stem for file in files]
    return {file: file.stem for file in files} if any(words.values()) and len(set(stems)) == len(stems) else {}


def _roots(of: type[EntrySource], files: Sequence[Path], roots: tuple[Path, ...]) -> tuple[Path, ...]:
    """The folders of the images, with the one that the first of LabelMe's files names."""
    if of is not LabelMeSource:
        return roots
    try:
        doc: Any = read_json(files[0])
    except Unreadable:
        return roots
    named = doc.get("imagePath") if isinstance(doc, dict) else None
    if not isinstance(named, str) or "\0" in named:
        return roots
    place = Path(os.path.normpath(files[0].parent / named.replace("\\", "/"))).parent
    return (*roots, place) if place.is_dir() and place not in roots else roots
