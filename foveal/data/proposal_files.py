"""The file that holds the proposals of many images: safetensors, read memory-mapped.

``starts`` (I + 1,) int64; ``boxes`` (N, 4) float32 xyxy pixels of the upright image; ``scores`` (N,) float32, falling
within an image. The boxes of image i are rows ``starts[i]`` to ``starts[i + 1]``. The header's entry
``foveal_proposals`` is JSON: ``{"schema": 1, "setting": text, "images": [[hash of the file's content, id], ...]}``.
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

from foveal.errors import FovealError
from foveal.parts.proposal_sources import Proposed

SCHEMA = 1
ENTRY = "foveal_proposals"
_MAKE_ONE = "`foveal proposals --data DATA --out DIR` writes one"


@dataclass(frozen=True)
class Named:
    """One image of a table."""

    key: str  # hash of the image file's content
    id: str  # its data set's own id, for messages


@dataclass(frozen=True, eq=False)
class Table:
    """The proposals of many images, as they lie in a file."""

    path: Path
    setting: str  # what made them: two tables of one setting agree on every image they share
    images: tuple[Named, ...]
    starts: NDArray[np.int64]
    boxes: NDArray[np.float32]  # (N, 4)
    scores: NDArray[np.float32]  # (N,)

    @cached_property
    def rows(self) -> dict[str, int]:
        """The place of each image by the hash of its content."""
        return {image.key: i for i, image in enumerate(self.images)}

    def of(self, row: int, width: float, height: float) -> Proposed:
        """The proposals of an image of this size: views of the file, nothing is copied.

        Raises :class:`FovealError` where a box is no box, or not within the image.
        """
        part = slice(int(self.starts[row]), int(self.starts[row + 1]))
        boxes, scores = self.boxes[part], self.scores[part]
        good = (boxes[:, 2:] > boxes[:, :2]) & (boxes[:, :2] >= -1) & (boxes[:, 2:] <= (width + 1, height + 1))
        if not good.all():  # not a number compares as false
            bad = int(np.flatnonzero(~good.all(1))[0])
            raise FovealError(
                f"a proposal of image {self.images[row].id} is {boxes[bad].tolist()}, no box in {width:g} x {height:g}",
                path=self.path,
                where=f"row {part.start + bad}",
                fix="Make the proposals again",
            )
        return Proposed(boxes, scores)


def content_key(path: str | Path) -> str:
    """A hash of a file's bytes. Raises ``OSError``."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def table_digest(keys: Iterable[str]) -> str:
    """A name for a set of images, whatever their order."""
    return hashlib.blake2b("\n".join(sorted(keys)).encode(), digest_size=12).hexdigest()


# -------------------------------------------------------------------------------------------------- reading
def read_table(path: str | Path) -> Table:
    """Raises :class:`FovealError` for a file that is missing, cut off or something else."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            header, start = _header(file)
            story = json.loads(header["__metadata__"][ENTRY])
            images = tuple(Named(str(key), str(id)) for key, id in story["images"])
            setting, schema = str(story["setting"]), story["schema"]
        arrays = {name: _mapped(path, header[name], start) for name in ("starts", "boxes", "scores")}
    except FileNotFoundError:
        raise FovealError("no such file of proposals", path=path, fix=_MAKE_ONE) from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"cannot be read as proposals ({type(error).__name__}: {error})"
        raise FovealError(reason, path=path, fix=_MAKE_ONE) from None
    starts, boxes, scores = arrays["starts"], arrays["boxes"], arrays["scores"]
    whole = len(starts) == len(images) + 1 and starts[0] == 0 and (np.diff(starts) >= 0).all()
    if schema != SCHEMA or not whole or starts[-1] != len(scores) or boxes.shape != (len(scores), 4):
        shapes = f"schema {schema}, {len(images)} images, boxes {boxes.shape}, scores {scores.shape}"
        raise FovealError(f"does not hold together ({shapes})", path=path, fix=_MAKE_ONE)
    return Table(path, setting, images, starts, boxes, scores)


def _header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The parsed header of a safetensors file, and where its data begin."""
    size = int.from_bytes(file.read(8), "little")
    if not 2 <= size <= 1 << 30:
        raise ValueError("no safetensors header")
    return json.loads(file.read(size)), 8 + size


_TYPES = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}


def _mapped(path: Path, entry: dict[str, Any], start: int) -> NDArray[Any]:
    shape, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
    kind = _TYPES[entry["dtype"]]
    if last - first != kind.itemsize * int(np.prod(shape)):
        raise ValueError("sizes in the header disagree")
    if first == last:
        return np.zeros(shape, kind)  # nothing to map
    mapped = np.memmap(path, kind, "r", offset=start + first, shape=shape)  # raises ValueError where the file is short
    return np.asarray(mapped)


# -------------------------------------------------------------------------------------------------- writing
def write_table(path: Path, setting: str, images: Sequence[Named], found: Sequence[Proposed]) -> None:
    """Under another name first, synced, then renamed: the file is whole or not there. ``found`` may be mapped views."""
    starts = np.concatenate([[0], np.cumsum([len(f.boxes) for f in found])]).astype("<i8")
    count, first = int(starts[-1]), 8 * len(starts)
    story = {"schema": SCHEMA, "setting": setting, "images": [[n.key, n.id] for n in images]}
    header = {
        "__metadata__": {ENTRY: json.dumps(story)},
        "starts": {"dtype": "I64", "shape": [len(starts)], "data_offsets": [0, first]},
        "boxes": {"dtype": "F32", "shape": [count, 4], "data_offsets": [first, first + 16 * count]},
        "scores": {"dtype": "F32", "shape": [count], "data_offsets": [first + 16 * count, first + 20 * count]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text + starts.tobytes())
            for boxes, _ in found:
                file.write(np.ascontiguousarray(boxes, "<f4").tobytes())
            for _, scores in found:
                file.write(np.ascontiguousarray(scores, "<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise FovealError(f"cannot be written ({error.strerror})", path=path) from error
    finally:
        part.unlink(missing_ok=True)
