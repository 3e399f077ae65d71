"""Runs a detector over a dataset and scores its detections (``foveal.evaluate``)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
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
from ..data.records.trained_on import image_hashes, unpack
from ..errors import FovealError, UsageError
from ..files.aliases import OnProgress, PathLike
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
    """The results of an evaluation with its ground truth and detections."""

    results: Results
    truth: GroundTruth
    table: DetectionTable
    skipped: list[ImageError]  # images that could not be read, scored as images without detections
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
            f"no class of the data ({', '.join(dataset.classes[:20])}) is known to the detector "
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
    count_dropped: bool = False,
    progress: OnProgress | None = None,
) -> Scored:
    """Runs a detector over a dataset and scores it on the classes of :func:`known_classes`."""
    from ..data.records.subsets import select_classes

    if detector.class_agnostic:
        scored, left_out = detector.classes, tuple[str, ...]()
        dataset = merged(dataset)
    else:
        scored = known_classes(detector, dataset, classes)
        left_out = () if classes is not None else tuple(c for c in dataset.classes if c not in scored)
        dataset = select_classes(dataset, scored, "background", "accept") if scored else dataset
    detections, skipped = detect(detector, dataset, progress=progress)
    truth = GroundTruth.of(dataset, masks=detector.has_masks, count_dropped=count_dropped)
    table = DetectionTable.of(
        [relabeled(d, detector.classes, scored) for d in detections], min_score=detector.threshold
    )
    results = score(truth, table, protocol, split=dataset.split)
    return Scored(results, truth, table, skipped, left_out)


def relabeled(detections: Detections, old: Sequence[str], new: Sequence[str]) -> Detections:
    """The detections whose class is in ``new``, with labels that index it."""
    if tuple(old) == tuple(new):
        return detections
    table = torch.tensor([new.index(name) if name in new else -1 for name in old])
    labels = table[detections.labels]
    return replace(detections, labels=labels, names=tuple(new))[labels >= 0]


# ------------------------------------------------------------------------------------------------- data
def evaluation_set(
    data: PathLike | Sequence[PathLike],
    *,
    split: str | None = None,
    images: PathLike | None = None,
    divided: Iterable[Any] | None = None,
    trained_on: str = "",
    convention: str | None = None,
) -> Dataset:
    """The records to score: the split asked for; else ``val`` where there are splits; else the images whose ids are
    ``divided`` (the validation part of a split that training made); else the whole set.

    ``trained_on``: hashes of the images that trained the model, wherever they lie now and whatever they are called
    (:mod:`foveal.data.records.trained_on`). Of a whole set they are left out, where others remain; else they are
    scored; a finding says which.

    A ``divided`` image that is missing is a finding: the other images were trained on, so they never replace it.
    Raises :class:`FovealError` where all are missing.
    """
    if split is None:
        kinds = [source.splits for source in open_sources(data, images)]
        split = "val" if any(kinds) else None
    dataset = open_dataset(data, split=split, images=images, convention=convention)
    ids = set(divided or ())
    if split is None and ids:
        dataset = _held_out(dataset, ids)
    return _unseen(dataset, trained_on, leave_out=split is None)


def _unseen(dataset: Dataset, trained_on: str, *, leave_out: bool) -> Dataset:
    """The dataset, with a finding on the images that trained the model."""
    known = unpack(trained_on)
    if not known:
        return dataset
    seen = [digest in known for digest in image_hashes(dataset.records)]
    if not any(seen):
        return dataset
    names = [record.path.name for record, trained in zip(dataset.records, seen, strict=True) if trained]
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    message = f"{len(names)} of {len(seen)} images trained this model ({listed})"
    if leave_out and not all(seen):
        message += f" and are left out; the other {len(seen) - len(names)} are scored"
        records = [record for record, trained in zip(dataset.records, seen, strict=True) if not trained]
        dataset = replace(dataset, records=records, split="val")
    else:
        message += " and are scored: the scores are better than those of images that it has not seen"
    finding = Finding("trained-on", "warning", str(dataset.path), "", message, "Give data that it has not seen")
    return replace(dataset, findings=[*dataset.findings, finding])


def _held_out(dataset: Dataset, ids: set[Any]) -> Dataset:
    """The records that training validated on."""
    held_out = [r for r in dataset.records if r.id in ids]
    gone = sorted(map(str, ids - {r.id for r in held_out}))
    listed = ", ".join(gone[:5]) + (", ..." if len(gone) > 5 else "")
    if not held_out:
        raise FovealError(
            f"none of the {len(ids)} images that the run validated on exists any more ({listed})",
            path=dataset.path,
            fix="Put them back, or give other data",
        )
    findings = list(dataset.findings)
    if gone:
        message = f"{len(gone)} of the {len(ids)} images that the run validated on are missing ({listed}), not scored"
        findings.append(Finding("validation-image-missing", "warning", str(dataset.path), "", message, "Put them back"))
    return replace(dataset, records=held_out, split="val", findings=findings)


def tell_trained_on(dataset: Dataset) -> None:
    """Logs that images trained the model; without a handler it goes to standard error."""
    for finding in dataset.findings:
        if finding.code == "trained-on":
            logging.getLogger("foveal").warning("%s: %s", finding.path, finding.message)


def divided_ids(model: str | Path, data: PathLike | Sequence[PathLike]) -> list[Any] | None:
    """The validation ids that a run stored, where it split this very data itself."""
    import json

    for folder in (Path(model), *Path(model).resolve().parents[:2]):  # a run, or one of its checkpoints
        try:
            run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        divided, trained = run.get("divided"), run.get("arguments", {}).get("data")
        if divided and _same(trained, data):
            return list(divided["val"])
        return None
    return None


def _same(trained: Any, data: Any) -> bool:
    def resolved(value: Any) -> list[Path]:
        return sorted(Path(p).resolve() for p in (value if isinstance(value, (list, tuple)) else [value]))

    return trained is not None and resolved(trained) == resolved(data)


@contextmanager
def _silent(what: str) -> Iterator[OnProgress | None]:
    yield None


def score_model(
    model: Detector | Run | PathLike,
    *,
    data: PathLike | Sequence[PathLike],
    source: PathLike | None = None,
    split: str | None = None,
    protocol: str | Protocol = "coco",
    classes: Sequence[str] | None = None,
    images: PathLike | None = None,
    convention: str | None = None,
    proposals: PathLike | Sequence[PathLike] | None = None,
    limit: int | None = None,
    count_dropped: bool = False,
    parts: Sequence[type] = (),
    on_data: Callable[[Dataset], None] | None = None,
    task: Callable[[str], AbstractContextManager[OnProgress | None]] = _silent,
) -> Scored:
    """Does what :func:`foveal.evaluate` does, and returns ground truth and detections too.

    ``source``: what a ``Detector`` was loaded from, which determines the images that its run held out. ``on_data`` is
    called with the dataset before the detector runs; ``task("evaluating")`` creates the progress callback of a phase.
    """
    from ..assembly.detector import Detector
    from ..checkpoints.folder import Run
    from ..checkpoints.load import load
    from ..external_proposals.detector import with_proposals

    given = model.path if isinstance(model, Run) else model
    detector = given if isinstance(given, Detector) else load(given, parts=parts)
    source = source if isinstance(given, Detector) else given
    divided = None if source is None else divided_ids(source, data)
    dataset = evaluation_set(
        data, split=split, images=images, divided=divided, trained_on=detector.trained_on, convention=convention
    )
    dataset = replace(dataset, records=dataset.records[:limit])
    with task("proposing") as progress:
        dataset = with_proposals(detector, dataset, proposals, progress=progress)
    if on_data is not None:
        on_data(dataset)
    else:
        tell_trained_on(dataset)
    with task("evaluating") as progress:
        return score_detector(
            detector, dataset, protocol=protocol, classes=classes, count_dropped=count_dropped, progress=progress
        )


def evaluate(
    model: Detector | Run | PathLike,
    *,
    data: PathLike | Sequence[PathLike],
    split: str | None = None,
    protocol: str | Protocol = "coco",
    classes: Sequence[str] | None = None,
    images: PathLike | None = None,
    convention: str | None = None,
    proposals: PathLike | Sequence[PathLike] | None = None,
    limit: int | None = None,
    count_dropped: bool = False,
    parts: Sequence[type] = (),
) -> Results:
    """Scores a detector on a dataset by a named protocol.

        results = foveal.evaluate("runs/first", data="my-photos", split="test", protocol="voc10")
        results = foveal.evaluate(foveal.load("accurate"), data="my-photos", classes=["cat", "dog"])
        print(results.text(intervals=True))
        results.intervals.numbers["mAP"]  # its 95 % interval; also results.errors, results.influence

    model
        a detector, or what :func:`foveal.load` takes: a run, checkpoint, alias or weights file
    data, images
        dataset, or several that are joined; folder of the images, if they are not beside the annotations
    convention
        what the numbers of the boxes are, if not what the format says, see :func:`foveal.open_dataset`
    split
        name of the split to score on; default: ``val`` where the data has splits; the validation images of a run that
        split this very data itself; else the whole dataset
    protocol
        ``"coco"`` (AP over IoU .50:.05:.95), ``"voc07"`` (11 points) or ``"voc10"`` (all points)
    classes
        names of the classes to score; default: all that detector and data share
    proposals
        file of ``foveal proposals``, for a detector that takes external proposals
    limit
        use only the first images
    count_dropped
        count the objects that the reader leaves out (no area, outside the image, repeated), as pycocotools does
    parts
        see :func:`foveal.load`

    Raises :class:`UsageError` for a class that the detector does not know, :class:`FovealError` for data that cannot
    be read or has no class in common with the detector.
    """
    return score_model(
        model,
        data=data,
        split=split,
        protocol=protocol,
        classes=classes,
        images=images,
        convention=convention,
        proposals=proposals,
        limit=limit,
        count_dropped=count_dropped,
        parts=parts,
    ).results
