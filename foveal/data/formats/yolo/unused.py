"""What lies in the folders of a YOLO dataset and is not used: label files without an image, images in no split."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
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
    images: Iterable[Path],
    used: Collection[Path],
    text_of: Callable[[Path], LabelText | Unreadable],
    evidence: Evidence,
    findings: Findings,
) -> None:
    """A finding for each label file without an image, in the folders of the labels of ``images``; ``used`` have one."""
    bare = {files.expected(image).parent for image in evidence.unlabeled}
    for folder in sorted({place for parent in {i.parent for i in images} for place in files.folders(parent)}):
        left = [label for label in files.files(folder) if label not in used]
        if not left:
            continue
        around = [image for parent in files.images_of[folder] for image in _images(parent)]  # of other splits too
        taken = {path for match in files.find(around).values() for path in (*match.paths, *match.passed)}
        owned = files.is_label_folder(folder)
        for label in left:
            if label in taken or not (owned or _looks_labeled(text_of(label))):
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


def _images(folder: Path) -> list[Path]:
    names = os.listdir(folder) if folder.is_dir() else []
    return [folder / name for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS]


def _looks_labeled(text: LabelText | Unreadable) -> bool:
    """Whether a text file among images is a label file: it begins with a class and numbers."""
    if isinstance(text, Unreadable) or not text.lines:
        return False
    return len(text.lines[0].columns) >= 4 and all(number(column) is not None for column in text.lines[0].columns)
