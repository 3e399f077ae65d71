"""From a run folder to its ``report.html``: runs the detector over validation images and draws its detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..data.records.segmentation import masks_of
from ..errors import FovealError
from ..inference.draw import draw, draw_boxes
from .evaluate_run import EvaluationRequest, evaluate_run, scored_set, validation_set
from .page import Example, write_report
from .read_run import read_record

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..data.records.dataset import Dataset

EXAMPLES = 12
SHOWN = 0.3  # detections from this score on are drawn
LEGIBLE = 320  # pixels: images with a shorter longest side are enlarged before names are written into them


def report_run(run: str | Path, *, device: str = "auto", budget: float = 60.0, parts: Sequence[type] = ()) -> Path:
    """Writes ``report.html``, and keeps the detections of the validation images in the run (``evaluations``).

    What detecting in all images would take longer for than ``budget`` seconds is left out: curves, errors, the images.
    The data is read again; where it is gone, a note on the page says so, and no image is drawn.
    """
    from ..checkpoints.load import load

    record = read_record(run)
    try:
        dataset = validation_set(record)
    except FovealError as error:
        return write_report(record, notes=[f"The data could not be read again, so no images are shown: {error}"])
    if not len(dataset):
        return write_report(record)
    detector = load(run, device=device, precision=record.run.get("precision"), parts=parts)
    try:
        scored = scored_set(detector, record, dataset)
    except FovealError as error:
        return write_report(record, notes=[f"The proposals of the images are not available any more: {error}"])
    examples, notes = _examples(detector, scored)
    evaluation = evaluate_run(record, dataset, EvaluationRequest(budget=budget), detector=detector)
    if evaluation is None:
        notes.append(
            f"Precision-recall curves, errors and the hardest images are left out: "
            f"detecting in all {len(dataset)} images would take more than {budget:.0f} s. "
            "`foveal compare` makes them, whatever they take."
        )
    return write_report(record, examples, evaluation, notes)


def _examples(detector: Detector, dataset: Dataset) -> tuple[list[Example], list[str]]:
    """Drawn examples, and what to say about them."""
    from ..assembly.detect_dataset import detect

    chosen = pick_examples(dataset, EXAMPLES)
    detected, skipped = detect(detector, replace(dataset, records=[dataset.records[i] for i in chosen]))
    bad = {str(error.path) for error in skipped}
    examples = [
        _example(dataset, i, detections)
        for i, detections in zip(chosen, detected, strict=True)
        if str(dataset.records[i].path) not in bad
    ]
    return examples, [f"Could not be read: {error}" for error in skipped]


def pick_examples(dataset: Dataset, count: int) -> list[int]:
    """Images spread evenly over the set, those with objects first, in order: always the same ones."""
    with_objects = [i for i, r in enumerate(dataset.records) if len(r)]
    pool = with_objects if len(with_objects) >= count else list(range(len(dataset)))
    count = min(count, len(pool))
    return [pool[(2 * k + 1) * len(pool) // (2 * count)] for k in range(count)]


def _example(dataset: Dataset, index: int, detections: Any) -> Example:
    from ..data.images.load import load_image

    record = dataset.records[index]
    pixels, seen, shown = load_image(record.path), ~record.ignore, detections.above(SHOWN)
    boxes, factor = record.boxes[seen], -(-LEGIBLE // max(pixels.shape[:2]))
    masks = None
    if shown.masks is not None and record.masks is not None:
        masks = masks_of(record.masks, record.width, record.height)[seen]
    if factor > 1:  # names and lines would cover a small image
        height, width = (factor * side for side in pixels.shape[:2])
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        boxes, masks = boxes * factor, None if masks is None else masks.resized(height, width)
        larger = None if shown.masks is None else shown.masks.resized(height, width)
        shown = replace(shown, boxes=shown.boxes * factor, masks=larger)
    drawn = None if masks is None else masks.dense()
    truth = draw_boxes(pixels, boxes.tolist(), record.labels[seen].tolist(), dataset.classes, masks=drawn)
    return Example(str(record.id), truth, draw(pixels, shown))
