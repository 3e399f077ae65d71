"""Runs a detector over a data set in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..data.images.load import ImageError, load_image
from ..data.records.dataset import Dataset
from ..files.aliases import OnProgress
from ..types import Detections

if TYPE_CHECKING:
    from .detector import Detector


def detect(
    detector: Detector, dataset: Dataset, *, progress: OnProgress | None = None
) -> tuple[list[Detections], list[ImageError]]:
    """Detections of every record, in order; none where the picture cannot be read."""
    found: list[Detections] = []
    skipped: list[ImageError] = []
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), detector.classes)
    size = 1 if detector.device.type == "cpu" else 8
    for start in range(0, len(dataset), size):
        records = dataset.records[start : start + size]
        arrays, boxes, good = [], [], []
        for record in records:
            try:
                arrays.append(load_image(record.path))
                boxes.append(record.proposals)
                good.append(True)
            except ImageError as error:
                skipped.append(error)
                good.append(False)
        given = [b for b in boxes if b is not None]  # all of them or none
        answers = iter(detector.predict_arrays(arrays, proposals=given or None))
        found += [next(answers) if ok else nothing for ok in good]
        if progress is not None:
            progress(len(found), len(dataset))
    return found, skipped
