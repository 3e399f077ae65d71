"""A detector's detections of a whole data set, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..assembly.detect_dataset import detect
from ..data.images.load import ImageError
from ..data.open import open_dataset, open_sources
from ..data.records.dataset import Dataset
from ..data.records.findings import Finding
from ..data.records.subsets import merged
from ..errors import FovealError, UsageError
from ..files.aliases import OnProgress
from ..files.paths import PathLike
from ..types import Detections
from . import DetectionTable, GroundTruth, Results
from . import score_detections as score
from .protocols import Protocol

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..checkpoints.folder import Run
    from . import Results
    from .protocols import Protocol


@dataclass(frozen=True)
class Scored:
    """An evaluation with all that went into it."""

    results: Results
    truth: GroundTruth
    found: DetectionTable
    skipped: list[ImageError]  # pictures that could not be read: nothing is found there
    left_out: tuple[str, ...]  # classes of the data that the detector does not know


def known_classes(detector: Detector, dataset: Dataset, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The classes to score, in the detector's order: those asked for, else those that it shares with the data.

    Raises :class:`UsageError` where it does not know one that was asked for, :class:`FovealError` where it knows none.
    """
    if asked is not None:
        unknown = [name for name in asked if name not in detector.classes]
        if unknown:
            classes = ", ".join(detector.classes)
            raise UsageError(
                f"the detector does not know the class {unknown[0]!r}", fix=f"Choose from its classes: {classes}"
            )
        return tuple(asked)
    shared = tuple(name for name in detector.classes if name in dataset.classes)
    if not shared and dataset.classes:
        raise FovealError(
            f"no class of the data ({', '.join(dataset.classes[:20])}) is one that the detector knows "
            f"({', '.join(detector.classes[:20])})",
            path=dataset.path,
        )
    return shared


def score_detector(
    detector: Detector,
    dataset: Dataset,
    *,
    protocol: str | Protocol = "coco",
    classes: Sequence[str] | None = None,
    progress: OnProgress | None = None,
) -> Scored:
    """Runs a detector over a data set and scores it on the classes of :func:`known_classes`."""
    from ..data.records.subsets import select_classes

    if detector.class_agnostic:
        wanted, left_out = detector.classes, tuple[str, ...]()
        dataset = merged(dataset)
    else:
        wanted = known_classes(detector, dataset, classes)
        left_out = () if classes is not None else tuple(c for c in dataset.classes if c not in wanted)
        dataset = select_classes(dataset, wanted, "background", "accept") if wanted else dataset
    detections, skipped = detect(detector, dataset, progress=progress)
    truth = GroundTruth.of(dataset, masks=detector.has_masks)
    found = DetectionTable.of([relabeled(d, detector.classes, wanted) for d in detections], cut=detector.threshold)
    results = score(truth, found, protocol, split=dataset.split)
    return Scored(results, truth, found, skipped, left_out)


def relabeled(found: Detections, old: Sequence[str], new: Sequence[str]) -> Detections:
    """The detections whose class is in ``new``, with labels that index it."""
    if tuple(old) == tuple(new):
        return found
    table = torch.tensor([new.index(name) if name in new else -1 for name in old])
    labels = table[found.labels]
    return replace(found, labels=labels, names=tuple(new))[labels >= 0]


# ------------------------------------------------------------------------------------------------- data
def evaluation_set(
    data: PathLike | Sequence[PathLike],
    *,
    split: str | None = None,
    images: PathLike | None = None,
    divided: Iterable[Any] | None = None,
) -> Dataset:
    """The records to score: the split asked for; else ``val`` where there are splits; else the images whose ids are
    ``divided`` (the validation part of a split that training made); else the whole set.

    A ``divided`` image that is gone is a finding: the others are images that training saw, so they never stand in for
    it. Raises :class:`FovealError` where all are gone.
    """
    if split is None:
        kinds = [source.splits for source in open_sources(data, images)]
        split = "val" if any(kinds) else None
    dataset = open_dataset(data, split=split, images=images)
    ids = set(divided or ())
    return _held_out(dataset, ids) if split is None and ids else dataset


def _held_out(dataset: Dataset, ids: set[Any]) -> Dataset:
    """The records that training validated on."""
    kept = [r for r in dataset.records if r.id in ids]
    gone = sorted(map(str, ids - {r.id for r in kept}))
    listed = ", ".join(gone[:5]) + (", ..." if len(gone) > 5 else "")
    if not kept:
        raise FovealError(
            f"not one of the {len(ids)} images that the run validated on is here any more ({listed})",
            path=dataset.path,
            fix="Put them back, or name other data",
        )
    findings = list(dataset.findings)
    if gone:
        message = f"{len(gone)} of the {len(ids)} images that the run validated on are gone ({listed}); scored without"
        findings.append(Finding("validation-image-missing", "warning", str(dataset.path), "", message, "Put them back"))
    return replace(dataset, records=kept, split="val", findings=findings)


def divided_ids(model: str | Path, data: PathLike | Sequence[PathLike]) -> list[Any] | None:
    """The validation ids that a run stored, where it divided this very data by itself."""
    import json

    for folder in (Path(model), *Path(model).resolve().parents[:2]):  # a run, or one of its checkpoints
        try:
            story = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        divided, own = story.get("divided"), story.get("arguments", {}).get("data")
        if divided and _same(own, data):
            return list(divided["val"])
        return None
    return None


def _same(own: Any, data: Any) -> bool:
    def resolved(value: Any) -> list[Path]:
        return sorted(Path(p).resolve() for p in (value if isinstance(value, (list, tuple)) else [value]))

    return own is not None and resolved(own) == resolved(data)


def evaluate(
    model: Detector | Run | PathLike,
    *,
    data: PathLike | Sequence[PathLike],
    split: str | None = None,
    protocol: str | Protocol = "coco",
    classes: Sequence[str] | None = None,
    images: PathLike | None = None,
    proposals: PathLike | Sequence[PathLike] | None = None,
) -> Results:
    """Scores a detector (or a run, checkpoint, alias or weights file) on a data set.

    Without ``split``: ``val`` where the data has splits; the validation images of a run that divided this data itself;
    else the whole set. ``classes``: those to score; else all that detector and data share. ``proposals``: a file of
    ``foveal proposals``, for a detector that takes them from outside.
    """
    from ..assembly.detector import Detector
    from ..checkpoints.folder import Run
    from ..checkpoints.load import load
    from ..external_proposals.detector import with_proposals

    place = model.path if isinstance(model, Run) else model
    detector = place if isinstance(place, Detector) else load(place)
    divided = None if isinstance(place, Detector) else divided_ids(place, data)
    dataset = evaluation_set(data, split=split, images=images, divided=divided)
    dataset = with_proposals(detector, dataset, proposals)
    return score_detector(detector, dataset, protocol=protocol, classes=classes).results
