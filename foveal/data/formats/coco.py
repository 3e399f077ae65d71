"""COCO JSON: one file, ``annotations/*.json`` of several splits, or Roboflow's ``_annotations.coco.json`` a folder.

``bbox`` is x, y, width, height in continuous pixels; nothing is shifted. A box over the image's edge is clipped for
training and scored as it is. Crowd regions and segmentations are kept.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...files.reading import Unreadable, read_json
from ..images.index import ImageIndex
from ..records.dataset import Dataset, Record
from ..records.findings import Findings
from .validate import Object, SizeCache, build_record, flag, number, report_refused, unique_names

Key = int | str


@dataclass
class CocoSource:
    """One COCO data set: a JSON file for every split (``""`` where there are none)."""

    path: Path
    files: dict[str, Path]
    image_roots: tuple[Path, ...]
    format: str = "coco"
    splits: tuple[str, ...] = field(init=False)
    prober: SizeCache = field(default_factory=SizeCache)
    look: bool = True  # at the images; else an image whose size is stated need not be there, for scoring detections

    def __post_init__(self) -> None:
        self.splits = tuple(name for name in self.files if name)
        self.early = Findings()  # of recognizing
        self._index: ImageIndex | None = None

    def read(self, split: str | None = None) -> Dataset:
        """Records of a split. The whole set is joined by :mod:`.subsets`, so ``None`` needs a single file."""
        if split is None and len(self.files) > 1:
            from ..records.subsets import join

            whole = join([self.read(name) for name in self.files])
            whole.path, whole.split, whole.splits = self.path, None, self.splits
            return whole
        file = self.files[split] if split is not None else next(iter(self.files.values()))
        return _Reader(self, file, split).read()

    def images(self) -> ImageIndex:
        """The images below the roots, found once."""
        if self._index is None:
            self._index = ImageIndex(*self.image_roots)
        return self._index


class _Reader:
    """Reads one JSON file."""

    def __init__(self, source: CocoSource, file: Path, split: str | None) -> None:
        self.source, self.file, self.split = source, file, split
        self.findings = Findings(source.early)
        self.label_of: dict[Key, int] = {}
        self.names: list[str] = []
        self.category_ids: list[int] = []

    def read(self) -> Dataset:
        records: list[Record] = []
        try:
            doc = read_json(self.file)
            if not isinstance(doc, dict):
                what = "a list (of results?)" if isinstance(doc, list) else f"a {type(doc).__name__}"
                raise Unreadable(f"no COCO data set but {what}", "Give the JSON with images and annotations")
            if self.source.look:
                report_refused(self.source.images().refused, self.findings)
            images = self._list(doc, "images")
            annotations = self._list(doc, "annotations", required=False)
            self._categories(self._list(doc, "categories", required=False), bool(annotations))
            records = self._records(images, annotations)
        except Unreadable as error:
            self.findings.add("error", "annotation-unreadable", self.file, "", error.message, error.fix)
        ids = tuple(self.category_ids) if self.names else None
        source = self.source
        return Dataset(
            tuple(self.names), records, list(self.findings), self.file, "coco", self.split, ids, source.splits
        )

    def _list(self, doc: dict[str, Any], key: str, required: bool = True) -> list[Any]:
        value = doc.get(key)
        if value is None and not required:
            return []
        if not isinstance(value, list):
            what = "is missing" if value is None else f"is a {type(value).__name__}"
            raise Unreadable(f'"{key}" {what}, expected a list', "Export it again")
        return value

    # -------------------------------------------------------------------------------------------- categories
    def _categories(self, categories: list[Any], needed: bool) -> None:
        found: dict[int, str] = {}
        raw: dict[int, Key] = {}
        for n, category in enumerate(categories):
            where = f"categories[{n}]"
            key = _key(category.get("id")) if isinstance(category, dict) else None
            if key is None:
                self._warn("category-invalid", where, f"{_show(category)} has no id; dropped", "Give it one")
                continue
            name = category.get("name")
            if not isinstance(name, str) or not name.strip():
                message = f"category id {key} has no name; called {str(key)!r}"
                self._warn("category-invalid", where, message, "Name it")
                name = str(key)
            order = key if isinstance(key, int) else len(found) + 1
            if key in raw.values():
                self._warn("category-repeated", where, f"the category id {key} is there already; dropped", "")
                continue
            while order in found:
                order += 1
            found[order], raw[order] = name.strip(), key
        order_of = sorted(found)
        self.names, place = unique_names([found[k] for k in order_of], self.file, self.findings)
        ids: dict[int, int] = {}
        for k, label in zip(order_of, place, strict=True):
            self.label_of[raw[k]] = label
            ids.setdefault(label, k)
        self.category_ids = [ids[label] for label in range(len(self.names))]
        if not self.names and needed:
            message = "the list of categories is empty, but there are annotations"
            self.findings.add("error", "classes-missing", self.file, "categories", message, "Export it with categories")

    # ----------------------------------------------------------------------------------------------- records
    def _records(self, images: list[Any], annotations: list[Any]) -> list[Record]:
        entries = self._entries(images)
        if not self.names:
            annotations = []  # said once, as an error
        objects: dict[Key, list[Object]] = {key: [] for key in entries}
        seen: dict[Key, Any] = {}
        unknown = 0
        for n, annotation in enumerate(annotations):
            where = f"annotations[{n}]"
            if not isinstance(annotation, dict):
                self._warn("annotation-invalid", where, f"{_show(annotation)} is no annotation; dropped", "Remove it")
                continue
            id = _key(annotation.get("id"))
            where = f"annotation id {id}" if id is not None else where
            if id is not None:
                if seen.get(id) == annotation:
                    self._warn("annotation-repeated", where, "the same annotation again; dropped", "Remove it")
                    continue
                if id in seen:
                    self._warn(
                        "id-repeated", where, "another annotation has this id; both are used", "Number them anew"
                    )
                seen[id] = annotation
            image = _key(annotation.get("image_id"))
            if image is None or image not in objects:
                known = image is not None and image in self.refused
                if not known:
                    value = _show(annotation.get("image_id"))
                    self._warn("annotation-orphan", where, f"its image_id {value} is no image; dropped", "Remove it")
                continue
            category = _key(annotation.get("category_id"))
            label = None if category is None else self.label_of.get(category)
            if label is None:
                unknown += 1
                value = _show(annotation.get("category_id"))
                self._warn("class-unknown", where, f"its category_id {value} is no category; dropped", "Correct it")
                continue
            made = self._object(annotation, label, where)
            if made is not None:
                objects[image].append(made)
        if unknown and unknown == len(annotations):
            message = "no annotation has a category_id that is in the list of categories"
            self.findings.add("error", "classes-missing", self.file, "categories", message, "Export it again")
        records = []
        for key, (path, stated, id) in entries.items():
            if self.source.look or not _usable(stated):
                size = self.source.prober.check_size(path, stated, self.file, self.findings)
            else:
                assert stated is not None
                size = int(stated[0]), int(stated[1])
            if size is not None:
                records.append(build_record(id, path, size, objects[key], self.file, self.findings))
        return records

    def _entries(self, images: list[Any]) -> dict[Key, tuple[Path, tuple[float, float] | None, Key]]:
        """Image id -> file, stated size, id as written."""
        entries: dict[Key, tuple[Path, tuple[float, float] | None, Key]] = {}
        self.refused: set[Key] = set()
        used: dict[Path, Key] = {}
        names_of: dict[Key | None, set[str]] = {}
        for image in images:
            if isinstance(image, dict):
                names_of.setdefault(_key(image.get("id")), set()).add(str(image.get("file_name")))
        for n, image in enumerate(images):
            where = f"images[{n}]"
            id = _key(image.get("id")) if isinstance(image, dict) else None
            name = image.get("file_name") if isinstance(image, dict) else None
            if id is None:
                self._warn("image-invalid", where, f"{_show(image)} has no id; left out", "Give it one")
                continue
            where = f"image id {id}"
            if len(names_of[id]) > 1:  # whose annotations are whose, nobody knows
                message = f"{len(names_of[id])} images have this id; {_show(name)} is left out, with its annotations"
                self._warn("id-repeated", where, message, "Number them anew")
                self.refused.add(id)
                continue
            if id in entries or id in self.refused:
                self._warn("id-repeated", where, f"{_show(name)} is listed twice; used once", "Remove the repeat")
                continue
            if not isinstance(name, str) or not name.strip():
                self._warn("image-invalid", where, f"its file_name is {_show(name)}; left out", "Name its file")
                self.refused.add(id)
                continue
            stated = self._stated(image, where)
            unseen = not self.source.look and _usable(stated)
            path = self._place(name.strip()) if unseen else self._find(name.strip(), where)
            if path is None:
                self.refused.add(id)
                continue
            if path in used and not unseen:
                message = f"the same file as image id {used[path]} ({path}); left out"
                self._warn("image-repeated", where, message, "Join their annotations under one id")
                self.refused.add(id)
                continue
            used[path] = id
            original = image["id"]
            entries[id] = path, stated, original if isinstance(original, str) else id
        return entries

    def _place(self, name: str) -> Path:
        """Where an image may lie that nobody looks at."""
        return Path(self.source.image_roots[0], self.split or "", *re.split(r"[\\/]+", name.strip("\\/")))

    def _find(self, name: str, where: str) -> Path | None:
        index = self.source.images()
        found = index.named(name, self.split or "")
        if not found:
            place = index.home(self.split or "") / re.split(r"[\\/]", name.replace("\0", "?"))[-1]
            message = f"{self.file} names it ({where}), but it is not there; the image is left out"
            self.findings.add("warning", "image-missing", place, "", message, "Put it there or give --images DIR")
            return None
        if len(found) > 1:
            others = ", ".join(str(p) for p in found[1:])
            message = f"several files are called {name!r}; this one is used, not {others}"
            self.findings.add("warning", "image-ambiguous", found[0], "", message, "Give --images DIR")
        return found[0]

    def _stated(self, image: dict[str, Any], where: str) -> tuple[float, float] | None:
        width, height = image.get("width"), image.get("height")
        if width is None or height is None:
            return None
        w, h = number(width), number(height)
        if w is None or h is None or not (0 <= w < 1e9 and 0 <= h < 1e9):
            message = f"its size {_show(width)} x {_show(height)} is no size; that of the file is used"
            self._warn("size-invalid", where, message, "Correct it")
            return None
        return w, h

    def _object(self, annotation: dict[str, Any], label: int, where: str) -> Object | None:
        where = f"{where} ({self.names[label]})"
        bbox = annotation.get("bbox")
        if bbox is None or bbox == []:
            self._warn("box-missing", where, "it has no bbox; dropped", "Add its box")
            return None
        values = [number(v) for v in bbox] if isinstance(bbox, list) else []
        x, y, w, h = values if len(values) == 4 else (None,) * 4
        if x is None or y is None or w is None or h is None:
            self._warn("box-not-number", where, f"its bbox {_show(bbox)} is not four numbers; dropped", "Correct it")
            return None
        area = number(annotation.get("area"))
        if area is not None and not (math.isfinite(area) and area >= 0):
            self._warn("area-invalid", where, f"its area {area} is no area; that of its box is used", "Correct it")
            area = None
        flags = {key: flag(annotation.get(key)) for key in ("iscrowd", "difficult")}
        for key, value in flags.items():
            if value is None:
                message = f"{key} is {_show(annotation.get(key))}, expected 0 or 1; taken as 0"
                self._warn("flag-invalid", where, message, "Correct it")
        return Object(
            (x, y, x + w, y + h),
            label,
            where,
            f"[{x:.12g}, {y:.12g}, {w:.12g}, {h:.12g}]",
            crowd=bool(flags["iscrowd"]),
            difficult=bool(flags["difficult"]),
            area=area,
            xywh=(x, y, w, h),
            mask=annotation.get("segmentation"),
        )

    def _warn(self, code: str, where: str, message: str, fix: str) -> None:
        self.findings.add("warning", code, self.file, where, message, fix)


def _usable(stated: tuple[float, float] | None) -> bool:
    return stated is not None and min(stated) >= 1


def _key(value: object) -> Key | None:
    """An id: whole numbers as numbers however they are written (7, 7.0, "7"), other text as it is."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, int):
        return value
    if isinstance(value, str) and value.strip():
        text = value.strip()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 and str(int(text)) == text else text
    return None


def _show(value: object) -> str:
    """A value for a message: short, on one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
