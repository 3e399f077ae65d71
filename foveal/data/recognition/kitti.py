"""Finds KITTI's label files among the files of a folder."""

from __future__ import annotations

from pathlib import Path

from ...files.reading import Unreadable, read_lines
from ..formats.kitti.reader import KittiSource
from ..records.splits import split_word
from .documents import split_by_folder
from .kinds import text_kind
from .listing import Listing, common_folder

_SAMPLE = 40  # label files of a folder that are looked at


def find_kitti(listing: Listing, images: Path | None) -> list[KittiSource]:
    """The label files of a folder as one dataset."""
    files: list[Path] = []
    for folder, names in listing.texts.items():
        kinds = [text_kind(folder / name) for name in names[:: max(1, len(names) // _SAMPLE)]]
        if 2 * kinds.count("kitti") > len([kind for kind in kinds if kind != "empty"]):
            files += [folder / name for name in names]
    if not files:
        return []
    base = common_folder(files, listing.root)
    left = {file.parent.parent / "image_2" for file in files}  # image_3 has the same names
    roots = tuple(sorted(left)) if all(folder.is_dir() for folder in left) else (listing.root,)
    splits = _split_by_lists(listing, files) or split_by_folder(files, listing.root)
    return [KittiSource(base, files, (images,) if images else roots, splits)]


def _split_by_lists(listing: Listing, files: list[Path]) -> dict[Path, str]:
    """File -> split by ``ImageSets/train.txt`` and others, where these lists have every file."""
    by_stem = {file.stem: file for file in files}
    splits: dict[Path, str] = {}
    for folder, names in listing.texts.items():
        if folder.name.lower() not in ("imagesets", "main"):
            continue
        for name in names:
            word = split_word(Path(name).stem)
            if word is None or word == "trainval":
                continue
            try:
                lines = read_lines(folder / name)
            except Unreadable:
                continue
            splits |= {by_stem[line]: word for line in lines if line in by_stem}
    return splits if len(splits) == len(by_stem) == len(files) else {}
