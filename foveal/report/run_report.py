"""From a run folder to its ``report.html``: runs the detector over validation images and draws its detections."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..data.records.segmentation import masks_of
from ..errors import FovealError
from ..evaluation import DetectionTable, GroundTruth, score_detections
from ..evaluation.curves import Curves
from ..inference.draw import draw, draw_boxes
from .page import Example, write_report
from .read_run import RunRecord, read_record

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..data.records.dataset import Dataset

EXAMPLES = 12
SHOWN = 0.3  # detections from this score on are drawn
LEGIBLE = 320  # pixels: images with a shorter longest side are enlarged before names are written into them


def report_run(run: str | Path, *, device: str = "auto", budget: float = 60.0, parts: Sequence[type] = ()) -> Path:
    """Writes ``report.html``. Precision-recall curves are left out where detecting takes more than ``budget`` seconds.

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
    if detector.class_agnostic:
        from ..data.records.subsets import merged

        dataset = merged(dataset)
    from ..external_proposals.detector import with_proposals

    try:
        dataset = with_proposals(detector, dataset, record.run.get("arguments", {}).get("proposals"))
    except FovealError as error:
        return write_report(record, notes=[f"The proposals of the images are not available any more: {error}"])
    return write_report(record, *_examples(detector, dataset, budget))


def validation_set(record: RunRecord) -> Dataset:
    """The images that a run validated on. Raises :class:`FovealError` where they cannot be read any more."""
    from ..data.open import split_pair

    arguments = record.run.get("arguments", {})
    train, dataset, _ = split_pair(
        arguments["data"],
        val=arguments.get("val"),
        split_map=arguments.get("split"),
        seed=int(arguments.get("seed", 0)),
        images=arguments.get("images"),
        classes=arguments.get("classes"),
        others=arguments.get("others", "background"),
        convention=arguments.get("convention"),
    )
    records = dataset.records
    if divided := record.run.get("divided"):  # not divided anew: images may have been added since
        held_out = set(divided["val"])
        records = [r for r in (*train.records, *records) if r.id in held_out]
    return replace(dataset, records=records[: arguments.get("limit")])


def _examples(detector: Detector, dataset: Dataset, budget: float) -> tuple[list[Example], Curves | None, list[str]]:
    """Drawn examples, and the curves of all images where there is time for them."""
    from ..assembly.detect_dataset import detect

    chosen = pick_examples(dataset, EXAMPLES)
    start = time.monotonic()
    detected, skipped = detect(detector, replace(dataset, records=[dataset.records[i] for i in chosen]))
    notes = [f"Could not be read: {error}" for error in skipped]
    bad = {str(error.path) for error in skipped}
    examples = [
        _example(dataset, i, detections)
        for i, detections in zip(chosen, detected, strict=True)
        if str(dataset.records[i].path) not in bad
    ]
    expected = (time.monotonic() - start) / len(chosen) * len(dataset)
    if expected > budget:
        return examples, None, [*notes, f"Precision-recall curves are left out: they would take {expected:.0f} s."]
    everything, _ = detect(detector, dataset)
    return examples, score_detections(GroundTruth.of(dataset), DetectionTable.of(everything), "coco").curves, notes


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
