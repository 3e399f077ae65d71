"""Lists the files below a folder that a dataset may consist of."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...files.reading import walk
from ..images.load import EXTENSIONS
from ..records.splits import split_word

ANNOTATION_FOLDERS = frozenset({"annotations", "annotation", "labels", "label", "json", "coco", "xml", "ann", "anns"})
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar", ".gz", ".bz2", ".xz")
_IMAGE_FOLDERS = ("images", "JPEGImages", "imgs", "img")


@dataclass
class Listing:
    """The files below a folder that matter."""

    root: Path
    yamls: list[Path] = field(default_factory=list)
    jsons: list[Path] = field(default_factory=list)
    tables: list[Path] = field(default_factory=list)  # .csv and .tsv
    darknet: list[Path] = field(default_factory=list)  # .data
    archives: list[Path] = field(default_factory=list)
    xml: dict[Path, list[str]] = field(default_factory=dict)  # folder -> names
    texts: dict[Path, list[str]] = field(default_factory=dict)  # folder -> names of .txt files
    images: dict[Path, int] = field(default_factory=dict)  # folder -> number of images
    roots: list[Path] = field(default_factory=list)  # VOC devkit roots
    sets: list[Path] = field(default_factory=list)  # folders of VOC split files
    refused: list[Path] = field(default_factory=list)  # folders that may not be listed
    others: Counter[str] = field(default_factory=Counter)  # ending -> number of other files


def list_files(root: Path) -> Listing:
    """Everything below a folder, hidden files aside."""
    listing = Listing(root)
    for base, names in walk(root, refused=listing.refused):
        folder = Path(base)
        if has_folder(folder, "Annotations") and (has_folder(folder, "JPEGImages") or has_folder(folder, "ImageSets")):
            listing.roots.append(folder)
        if folder.name == "Main" and folder.parent.name == "ImageSets":
            listing.sets.append(folder)
        images = 0
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in EXTENSIONS:
                images += 1
            elif suffix == ".xml":
                listing.xml.setdefault(folder, []).append(name)
            elif suffix == ".txt":
                listing.texts.setdefault(folder, []).append(name)
            else:
                _add(listing, folder / name, suffix)
        if images:
            listing.images[folder] = images
    return listing


def _add(listing: Listing, file: Path, suffix: str) -> None:
    if suffix == ".json":
        listing.jsons.append(file)
    elif suffix in (".yaml", ".yml"):
        listing.yamls.append(file)
    elif suffix in (".csv", ".tsv"):
        listing.tables.append(file)
    elif suffix == ".data":
        listing.darknet.append(file)
    elif file.name.lower().endswith(ARCHIVES):
        listing.archives.append(file)
    else:
        listing.others[suffix] += 1


def has_folder(folder: Path, name: str) -> bool:
    return (folder / name).is_dir()


def image_roots_of(file: Path) -> tuple[Path, ...]:
    """The folders below which the images of an annotation file may be that was given alone."""
    folder = file.parent
    if folder.name.lower() in ANNOTATION_FOLDERS and folder.parent != folder:
        return (folder.parent,)
    nearby = [folder] + [folder.parent / name for name in _IMAGE_FOLDERS if (folder.parent / name).is_dir()]
    return tuple(nearby)


def common_folder(files: list[Path], limit: Path) -> Path:
    """The deepest folder that holds all files; above ``annotations`` and the folder of a split, but below ``limit``."""
    folder = Path(os.path.commonpath([file.parent for file in files]))
    for _ in range(2):
        if folder != limit and (folder.name.lower() in ANNOTATION_FOLDERS or split_word(folder.name)):
            folder = folder.parent
    return folder


def folder_above(folders: Sequence[Path]) -> Path:
    """The folder above all of them; absolute only where one of them is."""
    mixed = len({folder.is_absolute() for folder in folders}) > 1
    return Path(os.path.commonpath([folder.absolute() for folder in folders] if mixed else folders))
