"""Inference on a dataset in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..data.images.load import ImageError, load_image
from ..data.records.dataset import Dataset
from ..files.aliases import OnProgress
from ..types import Detections, inference_batch

if TYPE_CHECKING:
    from .detector import Detector


def detect(
    detector: Detector, dataset: Dataset, *, progress: OnProgress | None = None
) -> tuple[list[Detections], list[ImageError]]:
    """Detections of every record, in order (none where the image cannot be read), and the images that cannot."""
    detections: list[Detections] = []
    skipped: list[ImageError] = []
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), detector.classes)
    size = inference_batch(detector.device)
    size *= 4 if size > 1 else 1  # among more images more have equal canvases
    for start in range(0, len(dataset), size):
        records = dataset.records[start : start + size]
        arrays, boxes, readable = [], [], []
        for record in records:
            try:
                arrays.append(load_image(record.path))
                boxes.append(record.proposals)
                readable.append(True)
            except ImageError as error:
                skipped.append(error)
                readable.append(False)
        given = [b for b in boxes if b is not None]  # all images have them, or none
        predicted = iter(detector.predict_arrays(arrays, proposals=given or None))
        detections += [next(predicted) if ok else nothing for ok in readable]
        if progress is not None:
            progress(len(detections), len(dataset))
    return detections, skipped
