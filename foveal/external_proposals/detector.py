"""External proposals for a detector: from a file, or computed by another detector."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import torch

from ..data.images.load import ImageError, load_image
from ..data.records.dataset import Dataset, Record
from ..errors import UsageError
from ..files.paths import OnProgress
from ..parts.selective_search import Proposed
from .cache import Made, Maker, fill
from .file import Files

if TYPE_CHECKING:
    from ..assembly.detector import Detector


def with_proposals(
    detector: Detector, dataset: Dataset, files: Files | None = None, *, progress: OnProgress | None = None
) -> Dataset:
    """The data set with proposals from outside where the detector takes such: of files, else of its source's cache.

    Raises :class:`UsageError` for files where the detector makes its own, :class:`FovealError` for those that do not
    fit the data.
    """
    if detector.source is not None:
        return fill(dataset, detector.source, files, progress=progress)
    if files is not None:
        raise UsageError(f"{type(detector.spec).__name__} takes no proposals from outside", where="--proposals")
    return dataset


def proposal_maker(detector: Detector, *, training: bool = False) -> Maker:
    """A detector's own proposals, for :func:`.cache.kept`; ``training``: as many as training takes."""

    def make(records: Sequence[Record]) -> Generator[Made, None, None]:
        for index, record in enumerate(records):
            try:
                array = load_image(record.path)
            except ImageError as error:
                yield index, error
                continue
            found = detector.propose(detector.prepare([array]), training=training)[0].cpu()
            boxes = found.boxes.float()
            found = found[(boxes[:, 2:] > boxes[:, :2]).all(1)]  # clipping may leave a line
            yield index, Proposed(found.boxes.float().numpy(), found.scores.float().numpy())

    return make


def proposal_setting(detector: Detector, *, training: bool = False) -> str:
    """What decides a detector's own proposals: its spec and its weights, bit for bit, and how many there shall be."""
    digest = hashlib.blake2b(repr(detector.spec).encode(), digest_size=16)
    for name, value in sorted(detector.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{type(detector.spec).__name__} {digest.hexdigest()}" + (" for training" if training else "")
