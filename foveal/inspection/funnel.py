"""The miss funnel: the verdicts on all objects of a dataset, and the shares of recall that each of them costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..assembly.detector import Detector
from ..data.images.load import ImageError, load_image
from ..data.records.dataset import Dataset, Record
from ..data.records.subsets import merged, select_classes
from ..evaluation.diagnosis import diagnose
from ..evaluation.scoring import known_classes, relabeled
from ..evaluation.tables import DetectionTable, GroundTruth
from ..files.aliases import Ints, OnProgress
from ..files.text import one_line
from ..types import Detections
from .traced import trace_image
from .verdicts import VERDICT_TEXTS, JudgedObject, ObjectVerdict, verdicts_of

BAR = 30  # characters of the longest bar
EXAMPLES = 6  # of each verdict


@dataclass(frozen=True, eq=False)
class LostObject:
    """An example of a verdict: one object of one image, with the detections of that image."""

    record: Record
    object: int  # row of the record
    verdict: JudgedObject
    detections: Detections


@dataclass(frozen=True, eq=False)
class Funnel:
    """How many objects of a dataset met each verdict. Lost objects and found ones together are all that count."""

    classes: tuple[str, ...]  # C, of the detector
    counts: Ints  # (C, V) by class and ObjectVerdict, in its order
    images: int
    split: str | None = None
    stages: dict[str, dict[str, int]] = field(default_factory=dict)  # verdict -> stage -> objects
    notes: list[str] = field(default_factory=list)  # mistakes of the whole set, such as boxes in another frame
    examples: list[LostObject] = field(default_factory=list)
    skipped: list[ImageError] = field(default_factory=list)  # images that cannot be read; their objects do not count

    @property
    def objects(self) -> int:
        """The objects that count: no crowds, difficult objects or ignored regions."""
        return int(self.counts.sum())

    def count(self, verdict: ObjectVerdict) -> int:
        """The objects with this verdict."""
        return int(self.counts[:, list(ObjectVerdict).index(verdict)].sum())

    @property
    def recall(self) -> float | None:
        """The share of the objects that are found, at IoU .5; None where there are none."""
        return self.count(ObjectVerdict.FOUND) / self.objects if self.objects else None

    def to_dict(self) -> dict[str, Any]:
        """The form of ``foveal inspect --json``."""
        lost = [v for v in ObjectVerdict if v != ObjectVerdict.FOUND]
        present = np.flatnonzero(self.counts.sum(1))
        return {
            "split": self.split,
            "images": self.images,
            "objects": self.objects,
            "found": self.count(ObjectVerdict.FOUND),
            "recall": self.recall,
            "lost": {v.value: self.count(v) for v in lost},
            "stages": self.stages,
            "per_class": {
                self.classes[c]: {v.value: int(n) for v, n in zip(ObjectVerdict, self.counts[c], strict=True)}
                for c in present
            },
            "notes": self.notes,
        }

    def text(self) -> str:
        """The table of ``foveal inspect --data``."""
        total = self.objects
        name = "" if self.split is None else f" of split {self.split}"
        if not total:
            return f"{self.images} images{name} without an object that counts: there is nothing to lose"
        lost = total - self.count(ObjectVerdict.FOUND)
        lines = [f"{total} objects in {self.images} images{name}, at IoU .5", ""]
        for verdict, text in VERDICT_TEXTS.items():
            number = self.count(verdict)
            bar = "#" * round(BAR * number / total)
            where = self.stages.get(verdict.value, {})
            by_stage = f"  ({', '.join(f'{n} {k}' for k, n in where.items())})" if set(where) - {"task"} else ""
            lines.append(f"  {text:<24}{number:>7}{100 * number / total:>7.1f} %  {bar}{by_stage}".rstrip())
            if verdict == ObjectVerdict.FOUND:
                lines.append("")
        lines += ["", f"  recall {(total - lost) / total:.4f} = 1 - {lost / total:.4f}: {lost} of {total} objects lost"]
        return "\n".join([*lines, *self._classes_text(), *(f"note: {note}" for note in self.notes)])

    def _classes_text(self) -> list[str]:
        """A row for each class that lost an object, the most first; at most 20."""
        verdicts = [v for v in ObjectVerdict if v == ObjectVerdict.FOUND or self.count(v)]
        columns = [list(ObjectVerdict).index(v) for v in verdicts]
        lost = self.counts.sum(1) - self.counts[:, 0]
        rows = [c for c in np.argsort(-lost, kind="stable") if lost[c]][:20]
        if len(self.classes) < 2 or not rows:
            return []
        width = min(24, max(5, *(len(one_line(self.classes[c])) for c in rows)))
        head = "".join(f"{v.value.replace('_', ' '):>13}" for v in verdicts)
        body = [
            f"  {one_line(self.classes[c])[:width]:<{width}}"
            + "".join(f"{int(self.counts[c, i]):>13}" for i in columns)
            for c in rows
        ]
        return ["", f"  {'class':<{width}}{head}", *body]


def miss_funnel(
    detector: Detector,
    dataset: Dataset,
    *,
    classes: Sequence[str] | None = None,
    examples: int = EXAMPLES,
    progress: OnProgress | None = None,
) -> Funnel:
    """The verdict on every object of a dataset, of the classes asked for or of all that it shares with the detector.

    Records of a detector that takes external proposals must have them. Raises as ``foveal.evaluate`` does.
    """
    dataset = for_detector(detector, dataset, classes)
    verdicts = list(ObjectVerdict)
    counts = np.zeros((len(detector.classes), len(verdicts)), np.int64)
    stages: dict[str, dict[str, int]] = {}
    shown: dict[ObjectVerdict, list[LostObject]] = {v: [] for v in verdicts}
    records, detections, skipped = [], [], []
    for number, record in enumerate(dataset.records, 1):
        try:
            array = load_image(record.path)
        except ImageError as error:
            skipped.append(error)
            continue
        traced = trace_image(detector, array, record, record.proposals)
        records.append(record)
        detections.append(traced.detections)
        for g, verdict in enumerate(verdicts_of(traced)):
            if verdict is None:
                continue
            counts[int(record.labels[g]), verdicts.index(verdict.verdict)] += 1
            if verdict.verdict != ObjectVerdict.FOUND:
                where = stages.setdefault(verdict.verdict.value, {})
                where[verdict.stage] = where.get(verdict.stage, 0) + 1
            if len(shown[verdict.verdict]) < examples:
                shown[verdict.verdict].append(LostObject(record, g, verdict, traced.detections))
        if progress is not None:
            progress(number, len(dataset))
    notes = _mistakes(detector, dataset, records, detections) if records else []
    picked = [one for verdict in verdicts for one in shown[verdict]]
    return Funnel(detector.classes, counts, len(records), dataset.split, stages, notes, picked, skipped)


def _mistakes(
    detector: Detector, dataset: Dataset, records: Sequence[Record], detections: Sequence[Detections]
) -> list[str]:
    """Mistakes of the whole set, a sentence each; of the classes that it has objects of."""
    present = np.unique(np.concatenate([np.zeros(0, np.int64), *(r.labels for r in records)]))
    names = tuple(dataset.classes[c] for c in present)
    known = [replace(r, labels=np.searchsorted(present, r.labels)) for r in records]
    truth = GroundTruth.of(replace(dataset, classes=names, records=known))
    table = DetectionTable.of([relabeled(d, dataset.classes, names) for d in detections], min_score=detector.threshold)
    return diagnose(truth, table)


def for_detector(detector: Detector, dataset: Dataset, classes: Sequence[str] | None = None) -> Dataset:
    """The dataset with labels that index the detector's classes; objects of other classes are left out."""
    if detector.class_agnostic:
        return merged(dataset)
    scored = known_classes(detector, dataset, classes)
    dataset = select_classes(dataset, scored, "background", "accept") if scored else dataset
    index = np.array([detector.classes.index(name) for name in dataset.classes], np.int64)
    records = [replace(r, labels=index[r.labels]) for r in dataset.records]
    return replace(dataset, classes=detector.classes, records=records, category_ids=None)


def record_of(dataset: Dataset, path: Path) -> Record | None:
    """The record of an image file, by its path."""
    resolved = path.resolve()
    return next((r for r in dataset.records if r.path.resolve() == resolved), None)
