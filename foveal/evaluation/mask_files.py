"""Reads and writes masks of COCO results: ``"segmentation": {"size": [height, width], "counts": ...}``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FovealError, UsageError
from ..files.aliases import Ints
from ..masks.rle import Masks, squeeze
from .masks import MaskRuns
from .tables import DetectionTable, GroundTruth


def read_masks(
    path: Path, segments: Sequence[Any], places: Sequence[str], image: Ints, truth: GroundTruth
) -> MaskRuns | None:
    """The masks of all records, which are at ``places`` of the file and of the images ``image`` (N,); None: no record
    has any.

    Raises :class:`FovealError` with file and record for one that is missing, cannot be read or is of another size.
    """
    from ..data.records.segmentation import masks_of, validate_mask

    if not any(segments):
        return None
    if truth.sizes is None:
        raise UsageError("masks need the image sizes")
    for i, (segment, index) in enumerate(zip(segments, image.tolist(), strict=True)):
        height, width = truth.sizes[index].tolist()
        mask, problems = validate_mask(segment, width, height)
        if mask is None or any(code != "mask-over-edge" for code, _, _ in problems):
            what = problems[0][1] if problems else "'segmentation' is missing; other records have one"
            raise FovealError(what, path=path, where=places[i], fix="Give every detection a mask, or none")
    order = np.argsort(image, kind="stable")
    bounds = np.flatnonzero(np.diff(image[order])) + 1
    parts: list[Masks] = []
    for rows in np.split(order, bounds):  # image by image: masks of one canvas are read together
        height, width = truth.sizes[image[rows[0]]].tolist()
        parts.append(masks_of([segments[k] for k in rows.tolist()], width, height))
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.arange(len(order))
    return MaskRuns.of(parts)[inverse]


def written_masks(detections: DetectionTable, truth: GroundTruth) -> list[dict[str, Any]]:
    """``{"segmentation": {"size", "counts"}}`` of each detection."""
    assert detections.masks is not None
    if truth.sizes is None:
        raise UsageError("masks need the image sizes")
    sizes = truth.sizes[detections.image].tolist()
    return [
        {"segmentation": {"size": size, "counts": squeeze(detections.masks.counts(k, size[0] * size[1]))}}
        for k, size in enumerate(sizes)
    ]
