"""Stores tensors that a network computed of each image, one file for each image.

Each file is complete or absent, so that an interrupted run continues with the next image. The key of a folder is a hash
of everything that the numbers depend on; under another key the folder is emptied.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from ...errors import FovealError
from ...files.aliases import ImageArray, OnProgress
from ...files.atomic import CannotWrite, atomic_file, write_text, writing
from ..images.load import MOST_SKIPPED, load_image
from ..records.dataset import Record

ComputeTensors = Callable[[int, ImageArray | None], dict[str, Tensor]]  # index and pixels of an image


@dataclass(frozen=True)
class Store:
    """A folder with a file for each of ``images`` images."""

    folder: Path
    images: int

    def path(self, index: int) -> Path:
        return self.folder / f"{index}.safetensors"

    def begin(self, key: str) -> list[int]:
        """The indices of the images without a file. A folder of another key is emptied."""
        open_folder_of(self.folder, key)
        return [index for index in range(self.images) if not self.path(index).exists()]

    @contextmanager
    def opened(self, index: int, framework: str) -> Iterator[Any]:
        """The file of an image, as safetensors' ``safe_open`` opens it for "np" or "pt".

        Raises :class:`FovealError` for one that is missing, damaged or refused.
        """
        path = self.path(index)
        try:
            with safe_open(path, framework) as file:
                yield file
        except (OSError, SafetensorError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            fix = "Remove it if it is damaged, and continue with --resume, which computes it again"
            raise FovealError(f"the stored file cannot be read ({reason})", path=path, fix=fix) from error

    def write(self, index: int, tensors: dict[str, Tensor]) -> None:
        """Writes a complete file or none. Raises :class:`FovealError` where the disk is full."""
        write_tensors(self.path(index), save(tensors))

    def fill(self, key: str, records: Sequence[Record], compute: ComputeTensors, step: OnProgress) -> dict[int, str]:
        """Computes and writes the missing files; ``step(done, all)`` is called after every image and may raise.

        ``compute`` gets ``None`` for unreadable images, which are returned with the reasons. Raises
        :class:`FovealError` where they are more than 5 %; these files are not kept.
        """
        skipped: dict[int, str] = {}
        missing = self.begin(key)
        for done, index in enumerate(missing, self.images - len(missing)):
            try:
                image = load_image(records[index].path)
            except FovealError as error:
                skipped[index] = str(error)
                image = None
            self.write(index, compute(index, image))
            step(done + 1, self.images)
            if len(skipped) > MOST_SKIPPED * self.images:
                for each in skipped:  # so that the next run tries them again
                    self.path(each).unlink(missing_ok=True)
                what = f"{len(skipped)} of {self.images} images cannot be read: {next(iter(skipped.values()))}"
                raise FovealError(what, path=self.folder)
        return skipped


@dataclass
class ViewStore:
    """A folder with a file of maps for each view of an image, of at most ``limit`` bytes in all.

    Half of what is free on the disk when it is opened is left free.
    """

    folder: Path
    limit: int
    size: int = 0  # bytes of the files
    images: set[int] = field(default_factory=set)  # those of which a view is stored

    def open(self) -> None:
        """Counts what the folder holds, after :func:`open_folder_of`."""
        files = list(self.folder.glob("*.safetensors"))
        self.size = sum(file.stat().st_size for file in files)
        self.images = {int(file.name.partition("-")[0]) for file in files}
        self.limit = min(self.limit, self.size + shutil.disk_usage(self.folder).free // 2)

    def path(self, index: int, view: str) -> Path:
        return self.folder / f"{index}-{view}.safetensors"

    def read(self, index: int, view: str) -> list[Tensor] | None:
        """The maps (h, w, c) of a view of image ``index``; ``None`` where they are not stored, or damaged."""
        path = self.path(index, view)
        try:
            tensors = load(path.read_bytes())
        except FileNotFoundError:
            return None
        except SafetensorError:  # after a power failure
            path.unlink(missing_ok=True)
            return None
        return [tensors[str(level)] for level in range(len(tensors))]

    def write(self, index: int, view: str, maps: Sequence[Tensor]) -> None:
        """Stores the maps (h, w, c) of a view, within the limit. Raises :class:`FovealError` for a full disk."""
        data = save({str(level): each for level, each in enumerate(maps)})
        if self.size + len(data) <= self.limit:
            write_tensors(self.path(index, view), data)
            self.size += len(data)
            self.images.add(index)


def open_folder_of(folder: Path, key: str) -> None:
    """Makes the folder of what depends on ``key``. A folder of another key is emptied."""
    stamp = folder / "key"
    with writing(folder):
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != key:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            write_text(stamp, key)


def write_tensors(path: Path, data: bytes) -> None:
    """Writes a complete file or none. Raises :class:`FovealError` where the disk is full."""
    try:
        with atomic_file(path) as part:
            part.write_bytes(data)
    except CannotWrite as error:
        fix = "Free some space, then run again with --resume, which uses the stored files"
        raise FovealError(f"a file of features {error.message}", path=path.parent, fix=fix) from error


def key_of(weights: Mapping[str, Tensor], *others: object) -> str:
    """A hash of weights, with their names, and of the ``repr`` of other values."""
    digest = hashlib.sha256(repr(others).encode())
    for name, tensor in weights.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def halves(tensors: Mapping[str, Tensor], record: Record) -> dict[str, Tensor]:
    """The tensors in half precision, as they are stored. Raises :class:`FovealError` if one is not finite."""
    small = {name: tensor.half().cpu().contiguous() for name, tensor in tensors.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in small.values()):
        message = "the features are not finite in half precision; the stage before has probably diverged"
        raise FovealError(message, path=record.path)
    return small
