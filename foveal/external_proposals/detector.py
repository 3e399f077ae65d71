"""Attaches external proposals to a dataset for a detector, and computes proposals with a detector."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

import torch

from ..data.images.load import ImageError, load_image
from ..data.records.dataset import Dataset, Record
from ..errors import UsageError
from ..files.aliases import OnProgress
from ..parts.selective_search import Proposed
from .cache import ComputeProposals, ProposalResult, fill_proposals
from .file import Files

if TYPE_CHECKING:
    from ..assembly.detector import Detector


def with_proposals(
    detector: Detector, dataset: Dataset, files: Files | None = None, *, progress: OnProgress | None = None
) -> Dataset:
    """The dataset with external proposals if the detector uses them: of ``files``, else of the cache of its source.

    Raises :class:`UsageError` for ``files`` if the detector computes its own proposals, :class:`FovealError` for files
    that do not fit the data.
    """
    if detector.source is not None:
        return fill_proposals(dataset, detector.source, files, progress=progress)
    if files is not None:
        raise UsageError(f"{type(detector.spec).__name__} uses no external proposals", where="--proposals")
    return dataset


def proposal_maker(detector: Detector, *, training: bool = False) -> ComputeProposals:
    """Computes a detector's proposals, for :func:`.cache.ensure_cached`; ``training``: as many as in training."""

    def compute(records: Sequence[Record]) -> Generator[ProposalResult, None, None]:
        for index, record in enumerate(records):
            try:
                array = load_image(record.path)
            except ImageError as error:
                yield index, error
                continue
            proposals = detector.propose(detector.prepare([array]), training=training)[0].cpu()
            boxes = proposals.boxes.float()
            proposals = proposals[(boxes[:, 2:] > boxes[:, :2]).all(1)]  # clipping may leave a box without area
            yield index, Proposed(proposals.boxes.float().numpy(), proposals.scores.float().numpy())

    return compute


def proposal_setting(detector: Detector, *, training: bool = False) -> str:
    """The cache key of a detector's proposals: its spec, the bits of its weights, and whether they are for training."""
    digest = hashlib.blake2b(repr(detector.spec).encode(), digest_size=16)
    for name, value in sorted(detector.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{type(detector.spec).__name__} {digest.hexdigest()}" + (" for training" if training else "")
