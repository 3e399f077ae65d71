"""A detector's detections of a whole data set, and what they are worth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .data.dataset import Dataset, Record
from .data.findings import Finding
from .data.images import ImageError, load_image
from .data.proposal_files import Files
from .data.proposals import Made, Maker, fill
from .data.reading import PathLike, open_dataset, open_sources
from .errors import FovealError, UsageError
from .evaluate import Found, Results, Truth
from .evaluate import evaluate as score
from .evaluate.protocols import Protocol
from .parts.proposal_sources import Proposed
from .train.validate import merged
from .types import Detections

if TYPE_CHECKING:
    from .detectors.base import Detector

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Scored:
    """An evaluation with all that went into it."""

    results: Results
    truth: Truth
    found: Found
    skipped: list[ImageError]  # pictures that could not be read: nothing is found there
    left_out: tuple[str, ...]  # classes of the data that the detector does not know


def detect(
    detector: Detector, dataset: Dataset, *, progress: Progress | None = None
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


def with_proposals(
    detector: Detector, dataset: Dataset, files: Files | None = None, *, progress: Progress | None = None
) -> Dataset:
    """The data set with proposals from outside where the detector takes such: of files, else of its source's cache.

    Raises :class:`UsageError` for files where the detector makes its own, :class:`FovealError` for those that do not
    fit the data.
    """
    if detector.source is not None:
        return fill(dataset, detector.source, files, progress=progress)
    if files is not None:
        raise UsageError(f"{type(detector.spec).__name__} takes no proposals from outside", where="--proposals")
    return dataset


def proposal_maker(detector: Detector, *, training: bool = False) -> Maker:
    """A detector's own proposals, for :func:`foveal.data.proposals.kept`; ``training``: as many as training takes."""

    def make(records: Sequence[Record]) -> Generator[Made, None, None]:
        for index, record in enumerate(records):
            try:
                array = load_image(record.path)
            except ImageError as error:
                yield index, error
                continue
            found = detector.propose(detector.prepare([array]), training=training)[0].cpu()
            boxes = found.boxes.float()
            found = found[(boxes[:, 2:] > boxes[:, :2]).all(1)]  # clipping may leave a line
            yield index, Proposed(found.boxes.float().numpy(), found.scores.float().numpy())

    return make


def proposal_setting(detector: Detector, *, training: bool = False) -> str:
    """What decides a detector's own proposals: its spec and its weights, bit for bit, and how many there shall be."""
    digest = hashlib.blake2b(repr(detector.spec).encode(), digest_size=16)
    for name, value in sorted(detector.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{type(detector.spec).__name__} {digest.hexdigest()}" + (" for training" if training else "")


def known_classes(detector: Detector, dataset: Dataset, asked: Sequence[str] | None) -> tuple[str, ...]:
    """The classes to score, in the detector's order: those asked for, else those that it shares with the data.

    Raises :class:`UsageError` where it does not know one that was asked for, :class:`FovealError` where it knows none.
    """
    if asked is not None:
        unknown = [name for name in asked if name not in detector.classes]
        if unknown:
            classes = ", ".join(detector.classes)
            raise UsageError(f"the detector does not know the class {unknown[0]!r}", fix=f"It knows: {classes}")
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
    progress: Progress | None = None,
) -> Scored:
    """Runs a detector over a data set and scores it on the classes of :func:`known_classes`."""
    from .data.subsets import select_classes

    if detector.merges_classes:
        wanted, left_out = detector.classes, tuple[str, ...]()
        dataset = merged(dataset)
    else:
        wanted = known_classes(detector, dataset, classes)
        left_out = () if classes is not None else tuple(c for c in dataset.classes if c not in wanted)
        dataset = select_classes(dataset, wanted, "background", "accept") if wanted else dataset
    detections, skipped = detect(detector, dataset, progress=progress)
    truth = Truth.of(dataset, masks=detector.has_masks)
    found = Found.of([relabelled(d, detector.classes, wanted) for d in detections], cut=detector.threshold)
    results = score(truth, found, protocol, split=dataset.split)
    return Scored(results, truth, found, skipped, left_out)


def relabelled(found: Detections, old: Sequence[str], new: Sequence[str]) -> Detections:
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
