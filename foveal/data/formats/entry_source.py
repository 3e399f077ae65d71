"""The reader of annotation files that name their images, which the formats of most tools share.

A format is a subclass of :class:`EntrySource` that parses one file into :class:`~.entries.NamedImage` values; finding
the images, checking sizes and boxes and numbering classes is the same for all.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ...files.reading import Unreadable
from ..images.index import ImageIndex
from ..images.load import EXTENSIONS
from ..images.lookup import NameMatch, NameTable, Wanted
from ..records.convention import Convention, as_written
from ..records.dataset import Dataset, Record
from ..records.findings import Findings, counted
from ..records.splits import split_word
from ..records.subsets import join
from .entries import NamedImage, NamedObject, ParsedFile
from .source import Reader, Source
from .validate import ParsedObject


class EntrySource(Source):
    """A dataset whose annotation files name images.

    ``splits`` is file -> split, or empty. A format whose files state the split of each image sets ``states_splits``,
    one with a file for each image ``image_files``.
    """

    native = Convention("corners")
    states_splits: ClassVar[bool] = False
    image_files: ClassVar[bool] = False

    def __init__(
        self,
        path: Path,
        files: Sequence[Path],
        image_roots: Iterable[Path],
        splits: Mapping[Path, str] | None = None,
    ) -> None:
        super().__init__(path, image_roots)
        self.files = tuple(files)
        self.split_of = dict(splits or {})
        self.splits = tuple(dict.fromkeys(self.split_of.values()))
        if not self.splits and self.states_splits:
            self.splits = tuple(dict.fromkeys(i.split for p in self.parsed.values() for i in p.images if i.split))

    @abstractmethod
    def parse(self, file: Path, findings: Findings) -> list[NamedImage]:
        """The images of one file. Raises :class:`~foveal.files.reading.Unreadable`."""

    def class_names(self) -> Sequence[str]:
        """The classes in the order in which the dataset lists them; names that it does not list follow, sorted."""
        return ()

    @cached_property
    def parsed(self) -> dict[Path, ParsedFile]:
        """The content of each file, read once."""
        return {file: self._parse(file) for file in self.files}

    def _parse(self, file: Path) -> ParsedFile:
        parsed = ParsedFile()
        try:
            parsed.images = self.parse(file, parsed.findings)
        except Unreadable as error:
            parsed.findings.add("error", "annotation-unreadable", file, "", error.message, error.fix)
        return parsed

    def beside(self, file: Path, name: str) -> Path | None:
        """The image at the path ``name`` from the annotation file's own folder, if there is one."""
        path = Path(os.path.normpath(file.parent / name.replace("\\", "/")))
        return path if path in self._image_set else None

    def stem_beside(self, file: Path, stem: str) -> Path | None:
        """The only image of this stem in the annotation file's own folder, else in the folders beside that."""
        near = self._by_stem.get(stem.replace("\\", "/"), [])
        own = [path for path in near if path.parent == file.parent]
        found = own or [path for path in near if path.parent.parent == file.parent.parent]
        return found[0] if len(found) == 1 else None

    def tables(self, file: Path) -> list[ImageIndex | NameTable]:
        """Where the images of an annotation file are looked for: below its folder, if there are several, then all."""
        below = [path for path in self.images.paths if file.parent in path.parents] if len(self._homes) > 1 else []
        alone = bool(below) and len(below) < len(self.images.paths)
        return [*([NameTable(below, EXTENSIONS, (file.parent,))] if alone else []), self.images]

    @cached_property
    def _homes(self) -> frozenset[Path]:
        """The folders of the annotation files; none for a format with a file for each image, which are too many."""
        return frozenset(() if self.image_files else (file.parent for file in self.files))

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        table: dict[str, list[Path]] = {}
        for path in self.images.paths:
            table.setdefault(path.stem, []).append(path)
        return table

    @cached_property
    def _image_set(self) -> frozenset[Path]:
        return frozenset(self.images.paths)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """All classes of the dataset, whatever split is read."""
        objects = (o for parsed in self.parsed.values() for image in parsed.images for o in image.objects)
        used = {o.name for o in objects if o.name and not o.every_class}
        listed = list(dict.fromkeys(self.class_names()))
        return (*listed, *sorted(used - set(listed)))

    def read(self, split: str | None = None) -> Dataset:
        if split is None and self.splits:
            whole = join([EntryReader(self, name).read() for name in self.splits])
            whole.path, whole.split, whole.splits = self.path, None, self.splits
            return whole
        return EntryReader(self, split).read()


class EntryReader(Reader[EntrySource]):
    """One read of such a dataset."""

    def records(self) -> list[Record]:
        source = self.source
        self.classes = source.classes
        self._label_of = {name: k for k, name in enumerate(self.classes)}
        if source.require_images:
            self.report_unlisted_folders()
        entries: dict[Path, tuple[Path, NamedImage]] = {}  # image -> annotation file and entry, in order
        for file, parsed in source.parsed.items():
            if source.split_of.get(file, self.split) != self.split:
                continue
            self.findings.extend(parsed.findings)
            here = source.split_of or not source.splits
            images = [i for i in parsed.images if (here or i.split == self.split) and not i.skipped]
            for image, path in zip(images, self._find(images, file), strict=True):
                if path is not None:
                    self._add(image, path, file, entries)
        self._report_undivided()
        count = Counter(path.stem for path in entries)
        records = [self._record(path, image, file, count[path.stem] > 1) for path, (file, image) in entries.items()]
        self._report_unannotated(set(entries))
        return [record for record in records if record is not None]

    def _find(self, images: list[NamedImage], file: Path) -> list[Path | None]:
        """The image of each entry; where it need not be opened and does not exist, where it belongs."""
        source, prefer = self.source, self._split_folder(file)
        near = file.parent.parts
        literal = [source.stem_beside(file, i.name) if i.stem else source.beside(file, i.name) for i in images]
        matches = [NameMatch() if path is None else NameMatch((path,)) for path in literal]
        wanted = [Wanted(i.name, prefer, near if i.stem else None) for i in images]
        for table in source.tables(file):  # the images below the file's folder, then all
            left = [k for k, match in enumerate(matches) if not match.paths]
            found = table.match([wanted[k] for k in left], {path for match in matches for path in match.paths})
            for k, match in zip(left, found, strict=True):
                matches[k] = match
        lost = [k for k, (i, m) in enumerate(zip(images, matches, strict=True)) if i.else_named and not m.paths]
        if lost:
            taken = {path for match in matches for path in match.paths}
            again = source.images.match([Wanted(str(images[k].else_named), prefer, near) for k in lost], taken)
            for k, match in zip(lost, again, strict=True):
                if match.paths:
                    what = f"it names the image {images[k].name!r}, which does not exist; {match.paths[0]} is used"
                    self.findings.add("warning", "image-renamed", file, images[k].where, what, "Correct the name")
                    matches[k] = match
        paths: list[Path | None] = []
        for image, match in zip(images, matches, strict=True):
            if not match.paths and self.trusted_size(image.size) is not None:
                paths.append(Path(source.image_roots[0], image.name.replace("\\", "/").lstrip("/")))
            else:
                paths.append(self.accept(match, image.name, file, image.where))
        return paths

    def _split_folder(self, file: Path) -> str:
        """The name of the folder whose images the split prefers: ``valid`` for the split ``val``."""
        if not self.split or split_word(file.parent.name) == self.split:
            return file.parent.name if self.split else ""
        folders = {part for parent in {path.parent for path in self.source.images.paths} for part in parent.parts}
        return next((name for name in sorted(folders) if split_word(name) == self.split), self.split)

    def _add(self, image: NamedImage, path: Path, file: Path, entries: dict[Path, tuple[Path, NamedImage]]) -> None:
        """Adds an entry; a second one of the same image is merged if it is in the same file, else skipped."""
        if path not in entries:
            entries[path] = file, image
            return
        first, entry = entries[path]
        if first == file and entry.fractions == image.fractions:
            message = f"{path} has another entry ({entry.where}); their objects are joined"
            self.findings.add("note", "image-repeated", file, image.where, message)
            entry.objects = [*entry.objects, *image.objects]
            return
        message = f"{path} is also annotated in {first}, which is used; the {len(image.objects)} objects here are not"
        self.findings.add("warning", "image-repeated", file, image.where, message, "Remove one of the two")

    def _record(self, path: Path, image: NamedImage, file: Path, repeated: bool) -> Record | None:
        size = self.image_size(path, image.size, file)
        if size is None:
            return None
        id: str = path.stem
        if repeated:
            root = next((r for r in self.source.image_roots if r in path.parents), path.parent.parent)
            id = path.relative_to(root).with_suffix("").as_posix()
        objects = [p for o in image.objects for p in self._objects(o, image, size, file)]
        base = Convention(image.layout, "fractions" if image.fractions else "pixels")
        return self.record(id, path, size, objects, file, base)

    def _objects(self, o: NamedObject, image: NamedImage, size: tuple[int, int], file: Path) -> Iterator[ParsedObject]:
        """The object in pixels, with the number of its class; none, and a finding, where it has no class."""
        if o.every_class:
            message = (
                f"{{n}} {'is' if len(self.classes) == 1 else 'are'} crowd in each of the {len(self.classes)} classes"
            )
            self.tally.add("note", "region-ignored", file, o.where, "region to ignore", message)
            for label in range(len(self.classes)):
                yield ParsedObject(o.box, label, o.where, o.shown, crowd=True)
            return
        if not o.name:
            self.findings.add("warning", "class-missing", file, o.where, "it has no class; dropped", "Add its class")
            return
        x, y = size if image.fractions else (1, 1)
        x1, y1, x2, y2 = o.box
        mask: Any = o.mask
        if o.polygons is not None:
            mask = [[v * (y if k % 2 else x) for k, v in enumerate(p)] for p in o.polygons]
        yield ParsedObject(
            (x1 * x, y1 * y, x2 * x, y2 * y),
            self._label_of[o.name],
            f"{o.where} ({o.name})",
            o.shown,
            crowd=o.crowd,
            difficult=o.difficult,
            mask=mask,
            numbers=as_written(o.box, image.layout) if o.polygons is None else None,
        )

    def _report_undivided(self) -> None:
        """Of images without a split in a dataset that has splits."""
        source = self.source
        if source.split_of or not source.splits or self.split != source.splits[0]:
            return
        for file, parsed in source.parsed.items():
            left = [image for image in parsed.images if not image.split]
            if left:
                message = f"{counted(len(left), 'image')} without a split, not used, such as {left[0].name!r}"
                self.findings.add("warning", "images-undivided", file, left[0].where, message, "Add their split")

    def _report_unannotated(self, used: set[Path]) -> None:
        """Of images that no file names: whether they have objects is unknown."""
        source = self.source
        alone = source.image_files and source.path.is_file()
        if not source.require_images or alone or (source.splits and self.split != source.splits[-1]):
            return
        named = self._all_names()
        left = [path for path in source.images.paths if path not in used and path.stem.lower() not in named]
        if not left:
            return
        what = "no annotation file belongs to" if source.image_files else "no annotation file names"
        message = f"{what} {counted(len(left), 'image')}, whose objects are unknown; skipped, such as {left[0].name}"
        fix = "Annotate them (also an image without objects)"
        self.findings.add("warning", "annotation-missing", left[0].parent, "", message, fix)

    def _all_names(self) -> set[str]:
        """The stems, in lower case, of all images that the files name."""
        entries = [image for parsed in self.source.parsed.values() for image in parsed.images]
        names = [name for i in entries for name in (i.name, i.else_named) if name]
        if self.source.image_files:  # also those that cannot be read
            names += [file.name for file in self.source.files]
        last = (name.replace("\\", "/").rpartition("/")[2] for name in names)
        return {part for name in last for part in (name.lower(), name.rpartition(".")[0].lower())}
