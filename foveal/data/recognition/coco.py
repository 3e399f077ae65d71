"""Finds COCO datasets among the files of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..formats.coco.reader import CocoSource
from ..records.splits import split_word
from .kinds import is_damaged
from .listing import ANNOTATION_FOLDERS, Listing, image_roots_of


def find_coco(listing: Listing, kinds: Mapping[Path, str], images: Path | None) -> list[CocoSource]:
    """The COCO datasets of a folder, with the splits that the names of their files or folders say."""
    root = listing.root
    groups: dict[Path, list[Path]] = {}
    good = [file for file in listing.jsons if kinds[file] == "coco"]
    homes = {file.parent for file in good}
    for file in good:
        groups.setdefault(_dataset_folder(file, root), []).append(file)
    for file in listing.jsons:
        named = file.name.endswith("_annotations.coco.json") or file.name.startswith("instances_")
        base = _dataset_folder(file, root)
        beside = file.parent in homes or (base in groups and base != file.parent)  # a folder of another split
        # an empty or damaged file must be reported and not ignored; other JSON files may be beside it
        if file not in good and (named or (beside and kinds[file] in ("", "lfs") and is_damaged(file))):
            groups.setdefault(base, []).append(file)
    sources = []
    for base, files in groups.items():
        instances = [f for f in files if f.name.startswith("instances_")]
        chosen = sorted(instances or files)
        sources.append(CocoSource(base, _split_names(chosen), (images,) if images else (base,)))
    return sources


def open_coco(file: Path, images: Path | None) -> CocoSource:
    """The dataset of one JSON file."""
    return CocoSource(file, {"": file}, (images,) if images else image_roots_of(file))


def _dataset_folder(file: Path, limit: Path) -> Path:
    """The dataset folder of a JSON file: above ``annotations`` and above the folder of a split."""
    folder = file.parent
    for _ in range(2):
        above = folder.name.lower() in ANNOTATION_FOLDERS or split_word(folder.name)
        if folder != limit and above:
            folder = folder.parent
    return folder


def _split_names(files: list[Path]) -> dict[str, Path]:
    """Split -> file, by the names of files or folders. A single file is the whole dataset."""
    words = {}
    for file in files:
        word = split_word(file.stem.replace("_annotations.coco", "")) or split_word(file.parent.name)
        words[file] = word
    if len(files) == 1:
        return {"": files[0]}
    unique = len(set(words.values())) == len(files) and None not in words.values()
    if unique:
        return {str(words[file]): file for file in files}
    return {file.stem.removeprefix("instances_"): file for file in files}
