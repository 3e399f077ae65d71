"""The file format for the proposals of many images: safetensors, memory-mapped.

``starts`` (I + 1,) int64; ``boxes`` (N, 4) float32 xyxy pixels of the upright image; ``scores`` (N,) float32, in
descending order within an image. The boxes of image i are rows ``starts[i]`` to ``starts[i + 1]``. The header's entry
``foveal_proposals`` is JSON: ``{"schema": 1, "setting": text, "images": [[hash of the image file, id], ...]}``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import FovealError, UsageError
from ..files.atomic import CannotWrite, atomic_file, writing
from ..files.outputs import output_kind
from ..parts.selective_search import Proposed

SCHEMA = 1
ENTRY = "foveal_proposals"
FILE = "proposals.safetensors"  # in the folder that ``foveal proposals --out`` makes
Files = str | Path | Sequence[str | Path]
_MAKE_ONE = "Make one with `foveal proposals --data DATA --out DIR`"


@dataclass(frozen=True)
class TableImage:
    """One image of a table."""

    key: str  # hash of the image file's content
    id: str  # the record's id, for messages


class DamagedProposals(FovealError):
    """A file that is truncated or not a proposals file."""


@dataclass(frozen=True, eq=False)
class Table:
    """The proposals of many images in a file. Boxes and scores are mapped when they are first used."""

    path: Path
    setting: str  # method and options: tables of the same setting have the same proposals for an image
    images: tuple[TableImage, ...]
    starts: NDArray[np.int64]  # (I + 1,)
    data: int  # offset of the boxes in the file; the scores follow

    @cached_property
    def rows(self) -> dict[str, int]:
        """Hash of the image file -> row of ``images``."""
        return {image.key: i for i, image in enumerate(self.images)}

    def __len__(self) -> int:
        """Number of boxes of all images."""
        return int(self.starts[-1])

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """(N, 4), mapped."""
        return self._mapped((len(self), 4), self.data)

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """(N,), mapped."""
        return self._mapped((len(self),), self.data + 16 * len(self))

    def map(self) -> None:
        """Maps boxes and scores now, so that they survive the removal of the file. Raises ``FileNotFoundError``."""
        _ = self.boxes, self.scores

    def _mapped(self, shape: tuple[int, ...], offset: int) -> NDArray[np.float32]:
        if not len(self):
            return np.zeros(shape, np.float32)  # nothing to map
        return np.asarray(np.memmap(self.path, np.dtype("<f4"), "r", offset=offset, shape=shape))

    def of(self, row: int, width: float, height: float) -> Proposed:
        """The proposals of an image of this size, as views of the file.

        Raises :class:`FovealError` for a box without area or outside the image, and for scores that are not in
        descending order, for the first rows count as the best.
        """
        part = slice(int(self.starts[row]), int(self.starts[row + 1]))
        boxes, scores = self.boxes[part], self.scores[part]
        good = (boxes[:, 2:] > boxes[:, :2]) & (boxes[:, :2] >= -1) & (boxes[:, 2:] <= (width + 1, height + 1))
        if not good.all():  # NaN compares as false
            bad = int(np.flatnonzero(~good.all(1))[0])
            box = f"{boxes[bad].tolist()}, not a box in {width:g} x {height:g}"
            raise FovealError(
                f"a proposal of image {self.images[row].id} is {box}",
                path=self.path,
                where=f"row {part.start + bad}",
                fix="Make the proposals again",
            )
        if not (np.diff(scores) <= 0).all() or np.isnan(scores[:1]).any():
            raise FovealError(
                f"the scores of image {self.images[row].id} are not in descending order",
                path=self.path,
                where=f"rows {part.start} to {part.stop - 1}",
                fix="Make the proposals again",
            )
        return Proposed(boxes, scores)

    def read(self, row: int) -> Proposed:
        """The proposals of an image, read and not mapped: a mapped file stays open, and there may be many files.

        Raises :class:`DamagedProposals` where the file was removed.
        """
        start, count = int(self.starts[row]), int(self.starts[row + 1] - self.starts[row])
        try:
            boxes = np.fromfile(self.path, "<f4", 4 * count, offset=self.data + 16 * start)
            scores = np.fromfile(self.path, "<f4", count, offset=self.data + 16 * len(self) + 4 * start)
        except FileNotFoundError:
            raise DamagedProposals("was removed", path=self.path, fix=_MAKE_ONE) from None
        return Proposed(boxes.reshape(-1, 4), scores)


@dataclass(frozen=True)
class LazyProposals(Sequence[Proposed]):
    """The proposals of images of several tables, read one at a time."""

    rows: Sequence[tuple[Table, int]]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        table, row = self.rows[index]
        return table.read(row)


def content_key(path: str | Path) -> str:
    """A hash of a file's bytes. Raises ``OSError``."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def table_digest(keys: Iterable[str]) -> str:
    """A hash of a set of images, independent of their order."""
    return hashlib.blake2b("\n".join(sorted(keys)).encode(), digest_size=12).hexdigest()


# -------------------------------------------------------------------------------------------------- reading
def read_table(path: str | Path) -> Table:
    """Opens a file, or ``proposals.safetensors`` in a folder.

    Raises :class:`DamagedProposals` for one that is truncated or something else, and :class:`FovealError` if it does
    not exist.
    """
    path = Path(path)
    if path.is_dir():  # of ``foveal proposals --out``
        path = path / FILE
    try:
        with path.open("rb") as file:
            header, start = _header(file)
            metadata = json.loads(header["__metadata__"][ENTRY])
            images = tuple(TableImage(str(key), str(id)) for key, id in metadata["images"])
            setting, schema, count = str(metadata["setting"]), metadata["schema"], int(header["scores"]["shape"][0])
            starts = np.frombuffer(file.read(8 * (len(images) + 1)), "<i8")
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        what = output_kind(path.parent) if path.name == FILE else ""
        if what:
            raise FovealError(f"{what}, not proposals", path=path.parent, fix=_MAKE_ONE) from None
        raise FovealError("no such proposals file", path=path, fix=_MAKE_ONE) from None
    except OSError as error:
        raise FovealError(f"cannot be read ({error.strerror})", path=path) from error
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        what = output_kind(path)
        other = what and not what.startswith("the proposals")
        reason = f"{what}, not proposals" if other else f"not a proposals file ({type(error).__name__}: {error})"
        raise DamagedProposals(reason, path=path, fix=_MAKE_ONE) from None
    consistent = (
        len(starts) == len(images) + 1 and starts[0] == 0 and (np.diff(starts) >= 0).all() and starts[-1] == count
    )
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if schema != SCHEMA or not consistent or tensors != _described(len(starts), count):
        what = f"schema {schema}, {len(images)} images, {count} boxes"
        raise DamagedProposals(f"is inconsistent ({what})", path=path, fix=_MAKE_ONE)
    data = start + 8 * len(starts)
    if size != data + 20 * count:
        raise DamagedProposals(
            f"has {size} bytes, expected {data + 20 * count}: it is truncated", path=path, fix=_MAKE_ONE
        )
    return Table(path, setting, images, starts, data)


def read_tables(files: Files) -> list[Table]:
    """One file, or several such as those of train and val. Raises :class:`UsageError` where their settings differ."""
    tables = [read_table(file) for file in ([files] if isinstance(files, str | Path) else files)]
    for other in tables[1:]:
        if other.setting != tables[0].setting:
            message = f"was made by {other.setting}, but {tables[0].path} by {tables[0].setting}"
            raise UsageError(message, path=other.path, fix="Give files of one setting")
    return tables


def index_tables(tables: Sequence[Table]) -> dict[str, tuple[Table, int]]:
    """Hash of the image file -> table and row."""
    return {key: (table, row) for table in tables for key, row in table.rows.items()}


def _header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The parsed header of a safetensors file, and where its data begin."""
    size = int.from_bytes(file.read(8), "little")
    if not 2 <= size <= 1 << 30:
        raise ValueError("not a safetensors header")
    return json.loads(file.read(size)), 8 + size


# -------------------------------------------------------------------------------------------------- writing
def _described(starts: int, count: int) -> dict[str, Any]:
    """The entries of the tensors in the header."""
    first = 8 * starts
    return {
        "starts": {"dtype": "I64", "shape": [starts], "data_offsets": [0, first]},
        "boxes": {"dtype": "F32", "shape": [count, 4], "data_offsets": [first, first + 16 * count]},
        "scores": {"dtype": "F32", "shape": [count], "data_offsets": [first + 16 * count, first + 20 * count]},
    }


def write_table(path: Path, setting: str, images: Sequence[TableImage], proposals: Sequence[Proposed]) -> None:
    """Writes a file that is complete (synced) or absent. ``proposals`` may be :class:`LazyProposals`."""
    starts = np.cumsum([0, *(len(p.boxes) for p in proposals)], dtype="<i8")
    metadata = {"schema": SCHEMA, "setting": setting, "images": [[n.key, n.id] for n in images]}
    header = {"__metadata__": {ENTRY: json.dumps(metadata)}, **_described(len(starts), int(starts[-1]))}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as part, part.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text + starts.tobytes())
            for boxes, _ in proposals:
                file.write(np.ascontiguousarray(boxes, "<f4").tobytes())
            for _, scores in proposals:
                file.write(np.ascontiguousarray(scores, "<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
    except CannotWrite as error:
        fix = "Free some space, set FOVEAL_CACHE to another folder, or choose another --out"
        raise FovealError(error.message, path=path, fix=fix) from error
