"""COCO JSON: one file, ``annotations/*.json`` of several splits, or Roboflow's ``_annotations.coco.json`` a folder.

``bbox`` is x, y, width, height in continuous pixels, without an offset. A box over the image's edge is clipped for
training and scored as stated. Crowd regions and segmentations are preserved.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ....files.reading import Unreadable
from ...records.convention import Convention
from ...records.dataset import Dataset, Record
from ...records.findings import Severity
from ...records.subsets import join
from ..source import Reader, Source
from ..validate import ParsedObject, valid_size
from .document import read_document
from .ids import IdTable, Key, as_key
from .objects import Categories, parse_object, shortened, without_root

_IMAGE_KEYS = ("file_name", "image", "image_name", "filename")  # of annotations without an image_id
_CLASS_KEYS = ("category", "category_name", "label", "class", "name")  # of annotations without a category_id
_NAME_KEYS = ("filename", "fileName", "path", "coco_url", "name")  # LVIS: coco_url


class CocoSource(Source):
    """One COCO dataset: a JSON file for every split (``""`` where there are none)."""

    format = "coco"
    native = Convention("top-left")

    def __init__(self, path: Path, files: Mapping[str, Path], image_roots: Iterable[Path]) -> None:
        super().__init__(path, image_roots)
        self.files = files
        self.splits = tuple(name for name in files if name)

    def read(self, split: str | None = None) -> Dataset:
        if split is None and len(self.files) > 1:
            whole = join([self.read(name) for name in self.files])
            whole.path, whole.split, whole.splits = self.path, None, self.splits
            return whole
        file = self.files[split] if split is not None else next(iter(self.files.values()))
        return CocoReader(self, split, file).read()


class ImageEntry(NamedTuple):
    """One entry of ``images``."""

    path: Path
    stated: tuple[float, float] | None  # width, height
    id: Key  # as written
    unnamed: bool = False  # it has no file_name, and needs none: no image is opened


class CocoReader(Reader[CocoSource]):
    """One read of one JSON file."""

    def __init__(self, source: CocoSource, split: str | None, file: Path) -> None:
        super().__init__(source, split)
        self.path = file
        self.categories = Categories()
        self.images: dict[Key, ImageEntry] = {}
        self.image_ids, self.category_table = IdTable(()), IdTable(())
        self.skipped: set[Key] = set()  # ids of images that cannot be used

    def records(self) -> list[Record]:
        try:
            if self.source.require_images:
                self.report_unlisted_folders()
            images, annotations, entries = read_document(self.path, self.findings)
        except Unreadable as error:
            self.findings.add("error", "annotation-unreadable", self.path, "", error.message, error.fix)
            return []
        entries, root = without_root(entries, annotations)
        if root:
            message = f"the category {root!r} has no object and is only the group of the others (Roboflow); left out"
            self.findings.add("note", "category-root", self.path, "categories", message)
        self.categories = Categories.parse(entries, self.path, self.findings)
        self.classes = tuple(self.categories.names)
        self.category_ids = tuple(self.categories.ids) if self.classes else None
        if annotations and not self.classes:
            self._report_no_classes("the list of categories is empty, but there are annotations")
            annotations = []
        self._read_images(images)
        objects = self._read_annotations(annotations)
        self._report_shifted(annotations)
        records = []
        for key, image in self.images.items():
            size = self._size_of(image, objects[key])
            if size is not None:
                used = [o for o in objects[key] if self._fits(o, size)]
                records.append(self.record(image.id, image.path, size, used, self.path))
        return records

    def _size_of(self, image: ImageEntry, objects: list[ParsedObject]) -> tuple[int, int] | None:
        """(width, height), around the objects where nothing states it; ``None``, and a finding: it is unusable."""
        if not image.unnamed or self.trusted_size(image.stated) is not None:
            return self.image_size(image.path, image.stated, self.path)
        message = "{n} without file_name, width and height: the size is taken from the objects"
        self._tell("note", "size-missing", f"image id {image.id}", message, what="image")
        lengths = [o.mask["size"] for o in objects if isinstance(o.mask, dict) and _is_size(o.mask.get("size"))]
        if lengths:
            return int(lengths[0][1]), int(lengths[0][0])
        ends = [(o.box[2], o.box[3]) for o in objects if all(map(math.isfinite, o.box))]
        width, height = (min(max(1, *(math.ceil(end[k]) for end in ends), 1), 10**9) for k in (0, 1))
        return width, height

    def _report_shifted(self, annotations: list[Any]) -> None:
        """A finding where the image ids of the annotations are those of the images plus or minus one."""
        named = {id for a in annotations if isinstance(a, dict) and isinstance(id := a.get("image_id"), int)}
        listed = {id for id in (*self.images, *self.skipped) if isinstance(id, int)}
        for step, edge, word in ((1, min, "high"), (-1, max, "low")):
            if not listed or len(named) < 3 or 2 * len(named) < len(listed) or named <= listed or edge(listed) in named:
                continue
            if {id - step for id in named} <= listed:
                message = f"the image ids of the annotations seem to be one too {word}: they go from {min(named)} to "
                message += (
                    f"{max(named)}, those of the images from {min(listed)} to {max(listed)}; so the objects may be"
                )
                message += " those of other images"
                fix = "Number the images as the annotations do"
                self.findings.add("warning", "image-numbers", self.path, "", message, fix)

    def _fits(self, o: ParsedObject, size: tuple[int, int]) -> bool:
        """Whether the mask that a box was taken from is as large as the image; a finding otherwise."""
        if not o.from_mask or not isinstance(o.mask, dict) or list(map(int, o.mask["size"])) == [size[1], size[0]]:
            return True
        message = f"it has no bbox, and its mask of {o.mask['size']} (height, width) is not that of the image; dropped"
        self._warn("box-missing", o.where, message, "Add its box")
        return False

    def _read_images(self, images: list[Any]) -> None:
        """Fills ``images`` and ``skipped``."""
        names_of: dict[Key | None, set[str]] = {}
        for image in images:
            if isinstance(image, dict):
                names_of.setdefault(as_key(image.get("id")), set()).add(str(image.get("file_name")))
        valid: dict[Key, tuple[dict[str, Any], str]] = {}  # the entries that can be used, and their file names
        for n, image in enumerate(images):
            id = as_key(image.get("id")) if isinstance(image, dict) else None
            if id is None:
                message = f"{shortened(image)} has no id; skipped"
                self._warn("image-invalid", f"images[{n}]", message, "Give it an id")
                continue
            where, name = f"image id {id}", self._name_of(image)
            if len(names_of[id]) > 1:  # it is unknown whose the annotations are
                message = f"{len(names_of[id])} images have this id; {shortened(name)} is skipped, with its annotations"
                self._warn("id-repeated", where, message, "Give every image a unique id")
            elif id in valid or id in self.skipped:
                self._warn("id-repeated", where, f"{shortened(name)} is listed twice; used once", "Remove the repeat")
                continue
            elif name is None and not self.source.require_images:  # boxes are compared with boxes: no file is opened
                valid[id] = image, ""
                continue
            elif not isinstance(name, str) or not name.strip():
                message = f"its file_name is {shortened(name)}; skipped"
                self._warn("image-invalid", where, message, "Correct its file_name")
            else:
                valid[id] = image, name.strip()
                continue
            self.skipped.add(id)
        self._find_files(valid)

    def _name_of(self, image: dict[str, Any]) -> object:
        """The ``file_name`` of an image, or what other tools have instead."""
        other = next((key for key in _NAME_KEYS if isinstance(image.get(key), str)), None)
        if image.get("file_name") is not None or other is None:
            return image.get("file_name")
        message = f"{{n}} named by {other!r} instead of file_name"
        self._tell("note", "name-key", f"image id {image.get('id')}", message, what="image")
        return image[other]

    def _find_files(self, valid: dict[Key, tuple[dict[str, Any], str]]) -> None:
        """Adds the entries whose files are found to ``images``, the others to ``skipped``."""
        stated = {id: self._stated_size(image, f"image id {id}") for id, (image, _) in valid.items()}
        opened = [id for id, (_, name) in valid.items() if name and self.trusted_size(stated[id]) is None]
        found = self.find_images([(valid[id][1], f"image id {id}") for id in opened], self.path)
        path_of = dict(zip(opened, found, strict=True))
        id_of: dict[Path, Key] = {}
        for id, (image, name) in valid.items():
            path = path_of[id] if id in path_of else self._expected_path(name or str(id))
            if path is not None and id in path_of and path in id_of:
                message = f"the same file as image id {id_of[path]} ({path}); skipped"
                self._warn("image-repeated", f"image id {id}", message, "Merge their annotations under one id")
                path = None
            if path is None:
                self.skipped.add(id)
                continue
            id_of[path] = id
            self.images[id] = ImageEntry(
                path, stated[id], image["id"] if isinstance(image["id"], str) else id, not name
            )

    def _expected_path(self, name: str) -> Path:
        """Where an image belongs that is not opened."""
        return Path(self.source.image_roots[0], self.split or "", *re.split(r"[\\/]+", name.strip("\\/")))

    def _stated_size(self, image: dict[str, Any], where: str) -> tuple[float, float] | None:
        width, height = image.get("width"), image.get("height")
        if width is None or height is None:
            return None
        numbers = valid_size(width, height)
        if numbers is None:
            size = f"{shortened(width)} x {shortened(height)}"
            message = f"its size {size} is invalid; the size of the image file is used"
            self._warn("size-invalid", where, message, "Correct it")
        return numbers

    def _read_annotations(self, annotations: list[Any]) -> dict[Key, list[ParsedObject]]:
        """Image id -> its objects."""
        objects: dict[Key, list[ParsedObject]] = {key: [] for key in self.images}
        names = [(name, key) for key, i in self.images.items() for name in (i.path.name, i.path.stem)]
        self.image_ids = IdTable([*self.images, *self.skipped], names)
        labels = self.categories.label_of
        self.category_table = IdTable(labels, [(self.classes[label], key) for key, label in labels.items()])
        seen: dict[Key, Any] = {}
        repeats: list[tuple[dict[str, Any], str]] = []
        self.evidence.class_names = {key: self.classes[k] for key, k in labels.items() if isinstance(key, int)}
        unlabeled = 0
        for n, annotation in enumerate(annotations):
            if not isinstance(annotation, dict):
                message = f"{shortened(annotation)} is not an annotation; dropped"
                self._warn("annotation-invalid", f"annotations[{n}]", message, "Remove it")
                continue
            id = as_key(annotation.get("id"))
            where = f"annotation id {id}" if id is not None else f"annotations[{n}]"
            if id is not None and seen.get(id) == annotation:
                self._warn("annotation-repeated", where, "the same annotation again; dropped", "Remove it")
                repeats.append((annotation, where))
                continue
            if id is not None and id in seen:
                message = "another annotation has this id; both are used"
                self._warn("id-repeated", where, message, "Give every annotation a unique id")
            if id is not None:
                seen[id] = annotation
            image = self._image_of(annotation, where)
            if image is None:
                continue
            label = self._label_of(annotation, where)
            if label is None:
                unlabeled += 1
                continue
            parsed = parse_object(annotation, label, self.classes[label], where, self._warn, self._tell)
            if parsed is not None:
                objects[image].append(parsed)
        if annotations and unlabeled == len(annotations):
            self._report_no_classes("no annotation has the category_id of a category")
        for annotation, where in repeats:
            image, _ = self.image_ids.find(_first(annotation, "image_id", *_IMAGE_KEYS))
            if image in objects:
                same = [o for o in objects[image] if o.where.startswith(f"{where} ")]
                objects[image] += [replace(o, repeat=True) for o in same[:1]]
        return objects

    def _image_of(self, annotation: dict[str, Any], where: str) -> Key | None:
        """The id of the annotation's image; without a finding of its own where that image is skipped."""
        value = _first(annotation, "image_id", *_IMAGE_KEYS)
        image, otherwise = self.image_ids.find(value)
        if otherwise:
            message = (
                f"{{n}} with an image_id in another notation than the image's own id ({shortened(value)} for {image!r})"
            )
            self._tell("note", "image-id-notation", where, message)
        if image is not None and image in self.images:
            return image
        if image is None or image not in self.skipped:
            message = f"no image has its image_id {shortened(annotation.get('image_id'))}; dropped"
            self._warn("annotation-orphan", where, message, "Remove it")
        return None

    def _label_of(self, annotation: dict[str, Any], where: str) -> int | None:
        value = _first(annotation, "category_id", *_CLASS_KEYS)
        number = as_key(value)
        if isinstance(number, int):
            self.evidence.class_numbers[number] += 1
            value = number - self.evidence.convention.first_class
        category, otherwise = self.category_table.find(value)
        if otherwise:
            same = f"({shortened(value)} for {category!r})"
            message = f"{{n}} with a category_id in another notation than the category's own id {same}"
            self._tell("note", "category-id-notation", where, message)
        label = None if category is None else self.categories.label_of.get(category)
        if label is None:
            message = f"no category has its category_id {shortened(annotation.get('category_id'))}; dropped"
            self._warn("class-unknown", where, message, "Correct it")
        return label

    def _report_no_classes(self, message: str) -> None:
        fix = "Export it again, with its categories"
        self.findings.add("error", "classes-missing", self.path, "categories", message, fix)

    def _warn(self, code: str, where: str, message: str, fix: str) -> None:
        self.findings.add("warning", code, self.path, where, message, fix)

    def _tell(
        self, severity: Severity, code: str, where: str, message: str, fix: str = "", what: str = "annotation"
    ) -> None:
        self.tally.add(severity, code, self.path, where, what, message, fix)


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(n) is int and n > 0 for n in value)


def _first(entry: dict[str, Any], *keys: str) -> Any:
    """The value of the first key that an entry has; texts alone count for all but the first."""
    if entry.get(keys[0]) is not None:
        return entry[keys[0]]
    return next((entry[key] for key in keys[1:] if isinstance(entry.get(key), str)), None)
