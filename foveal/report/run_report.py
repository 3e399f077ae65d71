"""From a run folder to its ``report.html``: runs the detector over validation pictures and draws what it says."""

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
from .read_run import Record, read_record

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..data.records.dataset import Dataset

EXAMPLES = 12
SHOWN = 0.3  # detections from this score on are drawn
LEGIBLE = 320  # pixels: pictures with a shorter longest side are enlarged before names are written into them


def report_run(run: str | Path, *, device: str = "auto", budget: float = 60.0) -> Path:
    """Writes ``report.html``. Precision-recall curves are left out where detecting takes more than ``budget`` seconds.

    The data is read again; where it is gone, the page says so and has no pictures.
    """
    from ..checkpoints.load import load

    record = read_record(run)
    try:
        dataset = validation_set(record)
    except FovealError as error:
        return write_report(record, notes=[f"The data could not be read again, so there are no pictures: {error}"])
    if not len(dataset):
        return write_report(record)
    detector = load(run, device=device, precision=record.story.get("precision"))
    if detector.class_agnostic:
        from ..data.records.subsets import merged

        dataset = merged(dataset)
    from ..external_proposals.detector import with_proposals

    try:
        dataset = with_proposals(detector, dataset, record.story.get("arguments", {}).get("proposals"))
    except FovealError as error:
        return write_report(record, notes=[f"There are no proposals for the pictures any more: {error}"])
    return write_report(record, *_looked_at(detector, dataset, budget))


def validation_set(record: Record) -> Dataset:
    """The images that a run validated on. Raises :class:`FovealError` where they are not to be had any more."""
    from ..data.open import split_pair

    called = record.story.get("arguments", {})
    _, dataset, _ = split_pair(
        called["data"],
        val=called.get("val"),
        split_map=called.get("split"),
        seed=int(called.get("seed", 0)),
        images=called.get("images"),
        classes=called.get("classes"),
        others=called.get("others", "background"),
    )
    return replace(dataset, records=dataset.records[: called.get("limit")])


def _looked_at(detector: Detector, dataset: Dataset, budget: float) -> tuple[list[Example], Curves | None, list[str]]:
    """Drawn examples, and the curves of all images where there is time for them."""
    from ..assembly.detect_dataset import detect

    chosen = choose(dataset, EXAMPLES)
    start = time.monotonic()
    found, skipped = detect(detector, replace(dataset, records=[dataset.records[i] for i in chosen]))
    notes = [f"Could not be read: {error}" for error in skipped]
    bad = {str(error.path) for error in skipped}
    examples = [
        _example(dataset, i, detections)
        for i, detections in zip(chosen, found, strict=True)
        if str(dataset.records[i].path) not in bad
    ]
    expected = (time.monotonic() - start) / len(chosen) * len(dataset)
    if expected > budget:
        return examples, None, [*notes, f"Precision-recall curves are left out: they would take {expected:.0f} s."]
    everything, _ = detect(detector, dataset)
    return examples, score_detections(GroundTruth.of(dataset), DetectionTable.of(everything), "coco").curves, notes


def choose(dataset: Dataset, count: int) -> list[int]:
    """Pictures spread evenly over the set, those with objects first, in order: always the same ones."""
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
    if factor > 1:  # names and lines would cover a small picture
        height, width = (factor * side for side in pixels.shape[:2])
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
        boxes, masks = boxes * factor, None if masks is None else masks.resized(height, width)
        larger = None if shown.masks is None else shown.masks.resized(height, width)
        shown = replace(shown, boxes=shown.boxes * factor, masks=larger)
    drawn = None if masks is None else masks.dense()
    truth = draw_boxes(pixels, boxes.tolist(), record.labels[seen].tolist(), dataset.classes, masks=drawn)
    return Example(str(record.id), truth, draw(pixels, shown))


# ----------------------------------------------------------------------------------------------- output
def headline(run: str | Path) -> str:
    """The result of a run in a line."""
    record = read_record(run)
    results = record.results
    if not results:
        return f"{run}: no results yet"
    numbers = ", ".join(f"{n} {_shown(results.get(n))}" for n in ("AP", "AP50", "AP75"))
    last = _shown((results.get("last") or {}).get("AP"))
    if "split" not in results:  # an imported or damaged file
        return f"{run}: no validation yet, update {results.get('steps')}"
    if "masks" in results:
        numbers += f"; of masks AP {_shown(results['masks']['AP'])}, AP50 {_shown(results['masks']['AP50'])}"
    where = f"split {results['split']}, {results.get('images')} images"
    return f"{run}: {numbers} (coco, {where}; best weights, update {results.get('step')}; the last ones: AP {last})"


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left, the others to the right."""
    width = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = [[row[0].ljust(width[0]), *(c.rjust(w) for c, w in zip(row[1:], width[1:], strict=True))] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in cells)
