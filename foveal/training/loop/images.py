"""Images for TensorBoard: the objects, proposals and detections of some validation images, drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...assembly.detector import Detector, in_evaluation
from ...assembly.trace import Selection, tracing
from ...data.images.load import ImageError, load_image
from ...data.records.dataset import Dataset
from ...files.pages import reduced
from ...inference.draw import draw, draw_boxes
from ...types import Images

LONGEST = 800  # pixels of the longer side of a drawing
PROPOSALS = 50  # the best ones are drawn
FROM = 0.3  # score from which detections are drawn


@dataclass(frozen=True)
class Drawing:
    """One drawing, (H, W, 3) uint8, and its name: ``detections/1``."""

    name: str
    pixels: NDArray[np.uint8]


def drawings(detector: Detector, dataset: Dataset, count: int) -> Iterator[Drawing]:
    """``count`` images of a dataset, always the same ones, each as what the detector should find, what its first stage
    proposes (where it has one) and what it finds. An image that cannot be read is left out."""
    rows = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    for number, row in enumerate(np.unique(rows).tolist(), 1):
        record = dataset.records[row]
        try:
            pixels = load_image(record.path)
        except ImageError:
            continue
        objects = draw_boxes(pixels, record.boxes.tolist(), record.labels.tolist(), dataset.classes)
        yield Drawing(f"targets/{number}", _small(objects))
        images = detector.prepare([pixels], None if record.proposals is None else [record.proposals])
        with torch.no_grad(), in_evaluation(detector), tracing() as trace:
            found = detector(images)[0].cpu()
        if len(trace.selections) > 1:  # the one before the last gave the proposals
            yield Drawing(f"proposals/{number}", _small(_proposals(trace.selections[-2], images, pixels)))
        yield Drawing(f"detections/{number}", _small(draw(pixels, found.above(FROM))))


def _proposals(selection: Selection, images: Images, pixels: NDArray[np.uint8]) -> Image.Image:
    """The best proposals of the first stage, in pixels of the image; their color is their rank."""
    kept = selection.kept
    boxes = images.to_original(kept.boxes)[0][kept.valid[0]][:PROPOSALS].float().cpu()
    return draw_boxes(pixels, boxes.tolist(), list(range(len(boxes))), [""] * len(boxes))


def _small(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(reduced(image, LONGEST).convert("RGB"))
