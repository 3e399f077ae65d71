"""What a network made of each image of a set, one file an image: made once, read again and again.

A file is written under another name and renamed, so that a run that is killed goes on with the next image. The folder
is keyed by everything the numbers follow from; under another key it is begun anew.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from ...errors import FovealError
from ...files.paths import OnProgress
from ..images.load import MOST_SKIPPED, load_image
from ..records.dataset import Record

Of = Callable[[int, NDArray[np.uint8] | None], dict[str, Tensor]]  # index and picture -> what is stored of it


@dataclass(frozen=True)
class Store:
    """The files of ``images`` images in ``folder``."""

    folder: Path
    images: int

    def path(self, index: int) -> Path:
        return self.folder / f"{index}.safetensors"

    def begin(self, key: str) -> list[int]:
        """The images still to be done. A folder of another key is emptied."""
        stamp = self.folder / "key"
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != key:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            stamp.write_text(key, encoding="utf-8")
        return [index for index in range(self.images) if not self.path(index).exists()]

    def write(self, index: int, tensors: dict[str, Tensor]) -> None:
        """Whole or not at all. Raises :class:`FovealError` where the disk is full."""
        temporary = self.folder / f".{index}"
        try:
            temporary.write_bytes(save(tensors))
            os.replace(temporary, self.path(index))
        except OSError as error:
            temporary.unlink(missing_ok=True)
            fix = "Free some space, then go on with --resume; what is stored stays"
            raise FovealError(f"cannot store features: {error.strerror}", path=self.folder, fix=fix) from error

    def fill(self, key: str, records: Sequence[Record], of: Of, step: OnProgress) -> dict[int, str]:
        """Writes what is missing; ``step(done, all)`` after every image may raise.

        ``of`` gets None for images that cannot be read. Returns those, with the reason; raises :class:`FovealError`
        where there are more than 5 %.
        """
        skipped: dict[int, str] = {}
        todo = self.begin(key)
        for done, index in enumerate(todo, self.images - len(todo)):
            try:
                image = load_image(records[index].path)
            except FovealError as error:
                skipped[index] = str(error)
                image = None
            self.write(index, of(index, image))
            step(done + 1, self.images)
            if len(skipped) > MOST_SKIPPED * self.images:
                raise FovealError(f"{len(skipped)} images cannot be read: {next(iter(skipped.values()))}")
        return skipped


def key_of(weights: Mapping[str, Tensor], *others: object) -> str:
    """A digest of weights, by name, and of whatever else prints the same only where it is the same."""
    digest = hashlib.sha256(repr(others).encode())
    for name, tensor in weights.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def halves(tensors: Mapping[str, Tensor], record: Record) -> dict[str, Tensor]:
    """In half precision, as they are stored. Raises :class:`FovealError` where that is not finite."""
    small = {name: tensor.half().cpu().contiguous() for name, tensor in tensors.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in small.values()):
        what = "features are not finite in half precision; did the stage before diverge?"
        raise FovealError(what, path=record.path)
    return small
