"""The inventory of a dataset, image by image, by which a resumed run tells what has changed in its data."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import FovealError
from ...files.atomic import read_object, write_text
from .dataset import Dataset, Record

SHOWN = 3  # images of a kind that are named
_TAIL = 4096  # bytes: two compressed images of the same size differ in them


class SeenImage(NamedTuple):
    """One image of an inventory."""

    id: int | str
    name: str  # of its file
    bytes: int  # size of its file; -1: it cannot be read
    width: int
    height: int
    objects: int
    digest: str  # of the objects
    tail: str = ""  # a checksum of the last bytes of its file; empty: unknown


@dataclass(frozen=True)
class Inventory:
    """The images of a dataset in order, with their objects."""

    path: str
    images: tuple[SeenImage, ...]

    @classmethod
    def of(cls, dataset: Dataset, *, masks: bool = False) -> Inventory:
        """``masks``: those of the objects count too."""
        entries = (
            SeenImage(r.id, r.path.name, size, r.width, r.height, len(r), _digest(r, dataset.classes, masks), tail)
            for r in dataset.records
            for size, tail in [_file(r.path)]
        )
        return cls(str(dataset.path.absolute()), tuple(entries))

    @property
    def objects(self) -> int:
        return sum(entry.objects for entry in self.images)

    def text(self) -> str:
        """``20 images with 31 objects``."""
        return f"{_count(len(self.images), 'image')} with {_count(self.objects, 'object')}"

    def write(self, path: Path) -> None:
        """Writes JSON, one image a line."""
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in self.images)
        write_text(path, f'{{"path": {json.dumps(self.path, ensure_ascii=False)}, "images": [\n{lines}\n]}}\n')

    @classmethod
    def read(cls, path: Path) -> Inventory | None:
        """None where there is no such file, or none that can be read: then only totals can be compared."""
        try:
            value = read_object(path)
            return cls(str(value["path"]), tuple(SeenImage(*row) for row in value["images"]))
        except (FovealError, KeyError, TypeError):
            return None


def replaced_files(before: Inventory, dataset: Dataset) -> str:
    """Image files with another size or other last bytes than in the inventory of the same images and objects."""
    pairs = zip(before.images, dataset.records, strict=True)
    return _replaced((entry, *_file(record.path)) for entry, record in pairs)


def differences(before: Inventory, now: Inventory) -> list[str]:
    """How an inventory differs from an earlier one, one phrase for each kind of change; empty: it does not."""
    old, new = ({entry.id: entry for entry in one.images} for one in (before, now))
    both = [(old[id], new[id]) for id in old if id in new]
    phrases = [
        _named([entry.name for id, entry in new.items() if id not in old], "image was added", "images were added"),
        _named([entry.name for id, entry in old.items() if id not in new], "image was removed", "images were removed"),
        _named(
            [_objects(a, b) for a, b in both if a.digest != b.digest],
            "image has other objects",
            "images have other objects",
        ),
        _named(
            [f"{b.name}: {a.width} x {a.height}, now {b.width} x {b.height}" for a, b in both if a[3:5] != b[3:5]],
            "image has another size",
            "images have another size",
        ),
        _replaced((a, b.bytes, b.tail) for a, b in both),
    ]
    found = [phrase for phrase in phrases if phrase]
    if not found and [e.id for e in before.images] != [e.id for e in now.images]:
        found = ["the images are in another order"]
    if found and before.path != now.path:
        found.append(f"it is read from {now.path}, and was from {before.path}")
    return found


# --------------------------------------------------------------------------------------------------- inner
def _digest(record: Record, classes: Sequence[str], masks: bool) -> str:
    digest = hashlib.blake2b(repr([classes[k] for k in record.labels.tolist()]).encode(), digest_size=8)
    for values in (record.boxes, record.crowd, record.difficult, record.ignore):
        digest.update(np.ascontiguousarray(values).tobytes())
    if masks:
        digest.update(repr(record.masks).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _file(path: Path) -> tuple[int, str]:
    """Size of a file and the checksum of its last bytes; -1 and "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            return size, f"{zlib.crc32(file.read()):08x}"
    except OSError:
        return -1, ""


def _objects(a: SeenImage, b: SeenImage) -> str:
    count = _count(a.objects, "object")
    return f"{b.name}: {count}, now {b.objects}" if a.objects != b.objects else f"{b.name}: {count}, not the same"


def _replaced(files: Iterable[tuple[SeenImage, int, str]]) -> str:
    rows = []
    for entry, size, tail in files:
        if -1 in (entry.bytes, size):
            continue
        if entry.bytes != size:
            rows.append(f"{entry.name}: {entry.bytes} bytes, now {size}")
        elif entry.tail not in ("", tail):
            rows.append(f"{entry.name}: other content of {size} bytes")
    return _named(rows, "image file was replaced", "image files were replaced")


def _named(rows: Sequence[str], one: str, several: str) -> str:
    """``2 images were added (a.jpg, b.jpg)``; empty where there is none."""
    if not rows:
        return ""
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    shown = ("; " if ": " in rows[0] else ", ").join(rows[:SHOWN])
    return f"{len(rows)} {one if len(rows) == 1 else several} ({shown}{more})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
