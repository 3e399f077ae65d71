"""Finds the label file of each image by the rules of Ultralytics and Darknet, in any capitals."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ...images.lookup import NameMatch, NameTable, Wanted
from ..class_list import CLASS_FILES

_ENDINGS = frozenset({".txt"})
IMAGE_FOLDERS = ("images", "jpegimages", "image", "imgs", "img")
_LABEL_FOLDERS = ("labels", "label")


class LabelFiles:
    """The label files of some images.

    The last folder called ``images`` (or ``JPEGImages``, in any capitals) of an image's path becomes ``labels``;
    without one, or where no file is there, the label file is beside the image. ``given`` folders decide before these
    rules; ``elsewhere`` are folders of labels whose images were moved.
    """

    def __init__(self, given: Mapping[Path, Path], elsewhere: Sequence[Path] = ()) -> None:
        self.given, self.elsewhere = given, elsewhere
        self._folders: dict[Path, list[Path]] = {}  # of images -> of labels
        self._names: dict[Path, dict[str, list[Path]]] = {}  # folder -> stem -> label files
        self._children: dict[Path, dict[str, list[str]]] = {}
        self.images_of: dict[Path, set[Path]] = {}  # folder of labels -> folders of images whose labels are there

    def find(self, images: Iterable[Path]) -> dict[Path, NameMatch]:
        """The label file of each image; exact names first, then by the normal forms of names."""
        found: dict[Path, NameMatch] = {}
        by_folder: dict[Path, list[Path]] = {}
        for image in images:
            by_folder.setdefault(image.parent, []).append(image)
        for folder, same in by_folder.items():
            folders = self.folders(folder)
            for image in same:
                files = next((f for d in folders if (f := self._exact(d, image))), None)
                if files is not None:
                    found[image] = NameMatch((files[0],), passed=tuple(files[1:]))
            for d in folders:
                left = [image for image in same if image not in found]
                if left and self._names[d]:
                    found.update(self._alike(d, left, {m.paths[0] for m in found.values() if m.paths}))
        return found

    def folders(self, folder: Path) -> list[Path]:
        """Where the labels of the images of a folder may be, the likeliest first."""
        if folder not in self._folders:
            if folder in self.given:
                places = [self.given[folder]]
            else:
                places = [*self._mirrored(folder), folder, *self.elsewhere]
            self._folders[folder] = list(dict.fromkeys(places))
            for place in self._folders[folder]:
                also = (f for f, of in self.given.items() if of == place)  # of other splits
                self.images_of.setdefault(place, set()).update((folder, *also))
                self._list(place)
        return self._folders[folder]

    def expected(self, image: Path) -> Path:
        """Where the label file of an image belongs that has none."""
        parts = image.parts
        for k in range(len(parts) - 2, -1, -1):
            if parts[k].lower() in IMAGE_FOLDERS and image.parent not in self.given:
                return Path(*parts[:k], "labels", *parts[k + 1 : -1], f"{image.stem}.txt")
        return self.folders(image.parent)[0] / f"{image.stem}.txt"

    def files(self, folder: Path) -> list[Path]:
        """The text files of a folder that may be label files, sorted."""
        self._list(folder)
        return sorted(f for files in self._names[folder].values() for f in files if f.name.lower() not in CLASS_FILES)

    def is_label_folder(self, folder: Path) -> bool:
        """Whether a folder is for labels alone."""
        return folder in self.given.values() or any(part.lower() in _LABEL_FOLDERS for part in folder.parts)

    def _exact(self, folder: Path, image: Path) -> list[Path] | None:
        files = self._names[folder].get(image.stem) or self._names[folder].get(image.name)
        return sorted(files, key=lambda f: f.suffix != ".txt") if files else None

    def _alike(self, folder: Path, images: list[Path], taken: set[Path]) -> dict[Path, NameMatch]:
        """By the normal forms of names, of those label files that are no image's by their exact name."""
        table = NameTable(self.files(folder), _ENDINGS)
        matches = table.match([Wanted(image.stem, folders=()) for image in images], taken)
        return {image: match for image, match in zip(images, matches, strict=True) if match.paths}

    def _mirrored(self, folder: Path) -> list[Path]:
        parts = folder.parts
        for k in range(len(parts) - 1, -1, -1):
            if parts[k].lower() in IMAGE_FOLDERS:
                above = Path(*parts[:k])
                names = self._subfolders(above)
                bases = [
                    above / name for label in _LABEL_FOLDERS for name in sorted(names.get(label, []), reverse=True)
                ]
                return [place for base in bases if (place := self._below(base, parts[k + 1 :])) is not None]
        return []

    def _below(self, base: Path, parts: Sequence[str]) -> Path | None:
        """The folder ``parts`` below ``base``, in other capitals where there is only one."""
        for part in parts:
            names = self._subfolders(base).get(part.lower(), [])
            if part not in names and len(names) != 1:
                return None
            base = base / (part if part in names else names[0])
        return base

    def _subfolders(self, folder: Path) -> dict[str, list[str]]:
        """The names of a folder's folders, by their lower case."""
        if folder not in self._children:
            found: dict[str, list[str]] = {}
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.is_dir():
                            found.setdefault(entry.name.lower(), []).append(entry.name)
            except OSError:
                pass
            self._children[folder] = found
        return self._children[folder]

    def _list(self, folder: Path) -> None:
        if folder in self._names:
            return
        names = self._names[folder] = {}
        try:
            with os.scandir(folder) as entries:
                found = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except OSError:
            return
        for name in found:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in _ENDINGS:
                names.setdefault(stem, []).append(folder / name)
