"""What lies in the folders of a YOLO dataset and is not used: label files without an image, images in no split."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from ....files.reading import Unreadable, walk
from ...images.load import EXTENSIONS
from ...records.evidence import Evidence
from ...records.findings import Findings
from ...records.splits import split_word
from ..validate import number
from .files import IMAGE_FOLDERS, LabelFiles
from .labels import LabelText


def report_orphans(
    files: LabelFiles,
    used: Collection[Path],
    text_of: Callable[[Path], LabelText | Unreadable],
    evidence: Evidence,
    findings: Findings,
) -> None:
    """A finding for each label file without an image, in the folders that were looked at; ``used`` are none."""
    bare = {files.expected(image).parent for image in evidence.unlabeled}
    for folder, image_folders in sorted(files.images_of.items()):
        owned = files.is_label_folder(folder)
        stems = {stem for f in image_folders for stem in _image_stems(f)}
        for label in files.files(folder):
            if label in used or label.stem in stems or not (owned or _looks_labeled(text_of(label))):
                continue
            if folder in bare:
                evidence.orphans.append(label)
            message, fix = "a label file without an image; not used", "Add the image or remove the label file"
            findings.add("warning", "image-missing", label, "", message, fix)


def find_unlisted(folders: Collection[Path], lists: Collection[Path], listed: Callable[[], list[Path]]) -> list[Path]:
    """The images that are in no split, in the folders beside those of the splits and in those of listed images.

    ``folders`` and ``lists`` are the splits; ``listed`` gives the images of all of them.
    """
    places = {other for folder in folders for other in _beside(folder)} - set(folders)
    places = {b for b in places if not any(b in folder.parents or folder in b.parents for folder in folders)}
    used = set(listed()) if places or lists else set()
    if lists:
        places |= {image.parent for image in used}
    unlisted = {
        image
        for folder in places
        for base, names in walk(folder)
        for name in names
        if os.path.splitext(name)[1].lower() in EXTENSIONS and (image := Path(base, name)) not in used
    }
    return sorted(unlisted)


def _beside(folder: Path) -> Iterator[Path]:
    """``images/val`` beside ``images/train``; ``valid/images`` beside ``train/images``."""
    if folder.parent.name.lower() in IMAGE_FOLDERS:
        yield from _subfolders(folder.parent)
    elif folder.name.lower() in IMAGE_FOLDERS and split_word(folder.parent.name):
        yield from (beside / folder.name for beside in _subfolders(folder.parent.parent) if split_word(beside.name))


def _subfolders(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []


def _image_stems(folder: Path) -> set[str]:
    names = os.listdir(folder) if folder.is_dir() else []
    return {stem for stem, suffix in map(os.path.splitext, names) if suffix.lower() in EXTENSIONS}


def _looks_labeled(text: LabelText | Unreadable) -> bool:
    """Whether a text file among images is a label file: it begins with a class and numbers."""
    if isinstance(text, Unreadable) or not text.lines:
        return False
    return len(text.lines[0].columns) >= 4 and all(number(column) is not None for column in text.lines[0].columns)
