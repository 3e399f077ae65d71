"""Finds YOLO's label files that no yaml describes: ``images/`` with ``labels/`` and ``classes.txt``, or one folder."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...files.reading import Unreadable, read_lines, walk
from ..formats.class_list import CLASS_FILES
from ..formats.yolo.layout import YoloLayout
from ..formats.yolo.reader import YoloSource
from ..images.load import EXTENSIONS
from ..records.findings import Findings, counted
from ..records.splits import split_word
from .class_files import find_names
from .kinds import read_head, text_kind
from .listing import Listing, folder_above

_SAMPLE = 40  # label files of a folder that are looked at


def find_labels(listing: Listing, images: Path | None) -> list[YoloSource]:
    """The label files of a folder as one dataset, if they belong to images."""
    labels = Labels.of(listing, images)
    if not labels.pairs:
        return []
    findings = Findings()
    names, named_in = find_names(listing, [*labels.used, *labels.pairs], labels.files, findings)
    root = folder_above([*labels.pairs, *labels.used])
    listed = labels.entries(findings)
    entries = {split: [os.path.relpath(path, root) for path in paths] for split, paths in listed.items()}
    labels.report_unused(findings)
    by_rule = {folder for folder, of in labels.pairs.items() if of in _ruled(folder)}
    others = {folder: of for folder, of in labels.pairs.items() if folder not in by_rule}
    layout = YoloLayout(root, root, entries, names, named_in, label_folders=others, nested=False)
    source = YoloSource(root, None, layout)
    source.findings.extend(findings)
    return [source]


@dataclass
class Labels:
    """The label files below a folder, and the folders of images that they belong to."""

    listing: Listing
    folders: dict[Path, list[str]] = field(default_factory=dict)  # folder of labels -> names of its .txt files
    lists: list[Path] = field(default_factory=list)  # text files with the paths of images
    images: dict[Path, list[str]] = field(default_factory=dict)  # folder of images -> names of its images
    pairs: dict[Path, Path] = field(default_factory=dict)  # folder of images -> folder of its labels
    rivals: dict[Path, list[Path]] = field(default_factory=dict)  # -> folders of labels that fit equally well

    @classmethod
    def of(cls, listing: Listing, images: Path | None) -> Labels:
        labels = cls(listing)
        empty: dict[Path, list[str]] = {}
        for folder, names in listing.texts.items():
            names = [name for name in names if name.lower() not in CLASS_FILES]
            kinds = {name: text_kind(folder / name) for name in _sample(names)}
            labels.lists += [folder / name for name, kind in kinds.items() if kind == "list"]
            numbers = sum(kind == "yolo" for kind in kinds.values())
            if numbers and numbers >= sum(kind in ("kitti", "") for kind in kinds.values()):
                labels.folders[folder] = [name for name in names if kinds.get(name) != "list"]
            elif kinds and all(kind == "empty" for kind in kinds.values()):
                empty[folder] = names
        if labels.folders:
            labels.folders |= empty
            labels.images = _images(listing.images if images is None else [Path(f) for f, _ in walk(images)])
            labels.pairs, labels.rivals = _pair(labels.images, labels.folders)
            if not labels.lists:
                labels.lists = labels.image_sets()
        return labels

    def image_sets(self) -> list[Path]:
        """VOC's lists of names without extensions (``ImageSets/train.txt``) that name some of the images."""
        stems = {os.path.splitext(name)[0] for names in self.images.values() for name in names}
        folders = [f for f in self.listing.texts if "imagesets" in (f.name.lower(), f.parent.name.lower())]
        files = [
            f / name for f in sorted(folders) for name in self.listing.texts[f] if split_word(name.rpartition(".")[0])
        ]
        return [
            file
            for file in files
            if stems & {line.strip() for line in read_head(file, 1 << 16).decode("utf-8", "replace").splitlines()}
        ]

    @property
    def used(self) -> list[Path]:
        """The folders of labels that belong to images."""
        return list(dict.fromkeys(self.pairs.values()))

    @cached_property
    def files(self) -> list[Path]:
        """The label files in these folders."""
        return [folder / name for folder in self.used for name in self.folders[folder]]

    def entries(self, findings: Findings) -> dict[str, list[str]]:
        """Split -> folders or lists of images: by the names of the folders, else by lists, else one undivided set."""
        words = {f: [w for part in self._relative(f) if (w := split_word(part))] for f in sorted(self.pairs)}
        if all(words.values()):
            entries: dict[str, list[str]] = {}
            for folder, found in words.items():
                entries.setdefault(found[-1], []).append(str(folder))
            return entries
        lists = {file: word for file in sorted(self.lists) if (word := split_word(file.stem))}
        if lists:
            unique = len(set(lists.values())) == len(lists)
            self._report_unlisted(lists, findings)
            return {word if unique else file.stem: [str(file)] for file, word in lists.items()}
        return {"": [str(folder) for folder in words]}

    def report_unused(self, findings: Findings) -> None:
        """A finding for each folder of images without labels, and of labels without images, which are not used."""
        for folder in sorted(self.images.keys() - self.pairs.keys()):
            message = f"{counted(len(self.images[folder]), 'image')} without label files, not used"
            fix = "Add their label files (an empty one for an image without objects)"
            findings.add("warning", "labels-missing", folder, "", message, fix)
        for folder, fit in sorted(self.rivals.items()):
            message = f"its images have labels in {' and in '.join(map(str, fit))}, and it is unknown which are meant"
            findings.add(
                "error", "labels-ambiguous", folder, "", message, "Remove the others, or call the folder labels"
            )
        rivals = {of for fit in self.rivals.values() for of in fit}
        for folder in sorted(self.folders.keys() - set(self.used) - rivals):
            names = self.folders[folder]
            home = self._home(folder)
            if home is not None:  # told as an error: these images would count as images without objects
                message = f"{counted(len(names), 'label file')} of images in {home}, whose other labels are in "
                message += f"{self.pairs[home]}"
                fix = "Divide the images into folders as their labels are, or put all labels into one folder"
                findings.add("error", "labels-divided", folder, "", message, fix)
                continue
            message = f"{counted(len(names), 'label file')} without images, not used"
            findings.add("warning", "images-missing", folder, "", message, "Add the images or give --images DIR")

    def _home(self, folder: Path) -> Path | None:
        """The folder of images that have a label file in this folder and none in the one that is used."""
        stems = {os.path.splitext(name)[0] for name in self.folders[folder]}
        for images, labels in self.pairs.items():
            labeled = {os.path.splitext(name)[0] for name in self.folders[labels]}
            if any(os.path.splitext(name)[0] in stems - labeled for name in self.images[images]):
                return images
        return None

    def _report_unlisted(self, lists: Iterable[Path], findings: Findings) -> None:
        """A finding about the images that are in none of the lists."""
        listed: set[str] = set()
        for file in lists:
            try:
                bases = {line.replace("\\", "/").rpartition("/")[2] for line in read_lines(file)}
                listed |= {os.path.splitext(base)[0] for base in bases}
            except Unreadable:  # told when the list is read
                return
        left = [
            folder / name
            for folder in self.pairs
            for name in self.images[folder]
            if os.path.splitext(name)[0] not in listed
        ]
        if left:
            names = ", ".join(file.name for file in lists)
            message = f"{counted(len(left), 'image')} not in {names}, not used, such as {left[0]}"
            findings.add("warning", "images-unlisted", self.listing.root, "", message, "Add them to a list")

    def _relative(self, folder: Path) -> tuple[str, ...]:
        root = self.listing.root
        return folder.relative_to(root).parts if root == folder or root in folder.parents else folder.parts[-2:]


def _sample(names: list[str]) -> list[str]:
    """Some of the names, and those that may be lists of a split."""
    step = max(1, len(names) // _SAMPLE)
    return list(dict.fromkeys([*names[::step], *[n for n in names if split_word(n.rpartition(".")[0])][:_SAMPLE]]))


def _images(folders: Iterable[Path]) -> dict[Path, list[str]]:
    """Folder -> names of its images, where it has any."""
    found = {}
    for folder in folders:
        _, names = next(iter(walk(folder, recursive=False)), ("", []))
        images = [name for name in names if os.path.splitext(name)[1].lower() in EXTENSIONS]
        if images:
            found[folder] = images
    return found


def _pair(
    images: dict[Path, list[str]], labels: dict[Path, list[str]]
) -> tuple[dict[Path, Path], dict[Path, list[Path]]]:
    """Folder of images -> of labels: by YOLO's rule where names agree, else the one with most names in common.

    Of equal ones, that of the same split and that with the longest common path. Also folder of images -> the folders
    of labels that fit it equally well, which is an error.
    """
    stems = {folder: {os.path.splitext(name)[0] for name in names} for folder, names in labels.items()}
    pairs: dict[Path, Path] = {}
    rivals: dict[Path, list[Path]] = {}
    for folder, names in images.items():
        own = {os.path.splitext(name)[0] for name in names}
        common = {
            of: (n, split_word(of.name) == split_word(folder.name), len(folder_above([of, folder]).parts))
            for of, those in stems.items()
            if (n := len(own & those))
        }
        ruled = [of for of in _ruled(folder) if of in common]
        if common:
            best = max(common.values())
            fit = ruled[:1] or [of for of in common if common[of] == best]
            pairs[folder] = fit[0]
            if len(fit) > 1:
                rivals[folder] = fit
    return pairs, rivals


def _ruled(folder: Path) -> list[Path]:
    """Where YOLO looks for the labels of a folder of images: its last ``images`` as ``labels``, or itself."""
    parts = folder.parts
    places = [k for k in range(len(parts)) if parts[k] == "images"]
    return [*(Path(*parts[:k], "labels", *parts[k + 1 :]) for k in places[-1:]), folder]
