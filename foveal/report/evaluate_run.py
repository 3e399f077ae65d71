"""Evaluates the weights of a run on a dataset and keeps the result in the run, so that it is done once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checkpoints.content import SUMS
from ..checkpoints.folder import find_checkpoint
from ..data.records.fingerprint import fingerprint
from ..data.records.subsets import merged, select_classes
from ..data.records.trained_on import image_hashes
from ..errors import FovealError
from ..evaluation.tables import GroundTruth
from ..files.aliases import OnProgress
from .evaluation_file import FOLDER, RunEvaluation, read_evaluation, write_evaluation
from .read_run import RunRecord

if TYPE_CHECKING:
    from ..assembly.detector import Detector
    from ..data.records.dataset import Dataset

TRIAL = 4  # images from which the time of all is estimated

ProgressOf = Callable[[str], AbstractContextManager[OnProgress | None]]


@dataclass(frozen=True)
class EvaluationRequest:
    """What is wanted of an evaluation."""

    verdicts: bool = True  # trace every image, for the miss funnel
    budget: float | None = None  # seconds; what would take longer is left out
    fresh: bool = False  # do not use what the run keeps
    device: str = "auto"
    parts: Sequence[type] = ()


def validation_set(record: RunRecord) -> Dataset:
    """The images that a run validated on. Raises :class:`FovealError` where they cannot be read any more."""
    from ..data.open import split_pair

    arguments = record.run.get("arguments", {})
    if not arguments.get("data"):
        raise FovealError("the data of the run is not known", path=record.path, where="run.json", fix="Give --data")
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


def weights_digest(run: Path) -> str:
    """A digest of the weights that ``eval`` and ``predict`` use. Raises as :func:`find_checkpoint` does."""
    folder = find_checkpoint(run)
    try:
        return hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise FovealError(f"cannot be read: {error.strerror}", path=folder / SUMS) from error


def evaluation_path(run: Path, key: str) -> Path:
    """Where a run keeps the evaluation on the dataset of a :func:`fingerprint`."""
    return run / FOLDER / f"{key[:16]}.safetensors"


def kept_evaluation(run: Path, key: str, *, verdicts: bool = False) -> RunEvaluation | None:
    """The evaluation that a run keeps for its weights and a dataset; ``verdicts``: only one that has them."""
    found = read_evaluation(evaluation_path(run, key))
    if found is None or found.weights != weights_digest(run) or found.data != key:
        return None
    return None if verdicts and found.verdicts is None else found


def newest_evaluation(run: Path) -> RunEvaluation | None:
    """The newest evaluation of its weights that a run keeps, for where the data is gone."""
    files = sorted((run / FOLDER).glob("*.safetensors"), key=lambda p: p.stat().st_mtime, reverse=True)
    for file in files:
        found = read_evaluation(file)
        if found is not None and found.weights == weights_digest(run):
            return found
    return None


def evaluate_run(
    record: RunRecord,
    dataset: Dataset,
    request: EvaluationRequest = EvaluationRequest(),
    task: ProgressOf = lambda _: nullcontext(),
    detector: Detector | None = None,
) -> RunEvaluation | None:
    """The evaluation of a run on ``dataset``: what the run keeps, else a new one, which it then keeps.

    ``None``: it would take longer than the budget. ``detector``: the run's, where it is loaded already.
    ``task("detecting")`` creates the progress callback of a phase. Raises :class:`FovealError` where weights,
    proposals or classes are missing.
    """
    key = fingerprint(dataset)
    if not request.fresh and (kept := kept_evaluation(record.path, key, verdicts=request.verdicts)) is not None:
        return kept
    detector = detector or _loaded(record, request)
    dataset = scored_set(detector, record, dataset)
    begun = time.monotonic()
    evaluation = None if request.fresh else kept_evaluation(record.path, key)
    if evaluation is None:
        evaluation = _detected(detector, record, dataset, key, request.budget, task)
    if evaluation is None:
        return None
    left = None if request.budget is None else request.budget - (time.monotonic() - begun)
    if request.verdicts:
        evaluation = _judged(detector, dataset, evaluation, left, task)
    with suppress(FovealError, OSError):  # a run on a disk that cannot be written is evaluated all the same
        write_evaluation(evaluation, evaluation_path(record.path, key))
    return evaluation


def _loaded(record: RunRecord, request: EvaluationRequest) -> Detector:
    from ..checkpoints.load import load

    precision: Any = record.run.get("precision")
    return load(record.path, device=request.device, precision=precision, parts=request.parts)


def scored_set(detector: Detector, record: RunRecord, dataset: Dataset) -> Dataset:
    """The dataset with the classes that the detector shares with it, in the detector's order, and with proposals."""
    from ..evaluation.scoring import known_classes
    from ..external_proposals.detector import with_proposals

    dataset = with_proposals(detector, dataset, record.run.get("arguments", {}).get("proposals"))
    if detector.class_agnostic:
        return merged(dataset)
    scored = known_classes(detector, dataset, None)
    return select_classes(dataset, scored, "background", "accept") if scored else dataset


def _detected(
    detector: Detector, record: RunRecord, dataset: Dataset, key: str, budget: float | None, task: ProgressOf
) -> RunEvaluation | None:
    import torch

    from ..assembly.detect_dataset import detect
    from ..evaluation import DetectionTable
    from ..evaluation.scoring import relabeled
    from ..runtime.processes import versions

    if budget is not None and len(dataset) > TRIAL:
        begun = time.monotonic()
        detect(detector, replace(dataset, records=dataset.records[:TRIAL]))
        if (time.monotonic() - begun) / TRIAL * len(dataset) > budget:
            return None
    begun = time.monotonic()
    with task(f"{record.path.name}: detecting") as progress:
        detections, skipped = detect(detector, dataset, progress=progress)
    seconds = (time.monotonic() - begun) / max(len(dataset), 1)
    named = dataset.classes if not detector.class_agnostic else detector.classes
    table = DetectionTable.of([relabeled(d, detector.classes, named) for d in detections])
    threads = f", {torch.get_num_threads()} threads" if detector.device.type == "cpu" else ""
    return RunEvaluation(
        GroundTruth.of(dataset),
        replace(table, masks=None, min_score=detector.threshold),
        weights=weights_digest(record.path),
        data=key,
        split=dataset.split,
        hashes=tuple("" if h is None else h.hex() for h in image_hashes(dataset.records)),
        seconds=seconds,
        device=f"{detector.device}{threads}",
        version=versions()["foveal"],
        skipped=tuple(str(error) for error in skipped),
    )


def _judged(
    detector: Detector, dataset: Dataset, evaluation: RunEvaluation, budget: float | None, task: ProgressOf
) -> RunEvaluation:
    """With the verdict on every object, if all fit into the budget and the detector has stages."""
    from ..data.images.load import ImageError, load_image
    from ..inspection.funnel import for_detector
    from ..inspection.traced import trace_image
    from ..inspection.verdicts import VERDICT_TEXTS, ObjectVerdict, verdicts_of

    names = [v.value for v in ObjectVerdict]
    found: list[int] = []
    begun = time.monotonic()
    with task("inspecting") as progress:
        for number, record in enumerate(for_detector(detector, dataset).records, 1):
            try:
                array = load_image(record.path)
            except ImageError:
                found += [-1] * len(record)
                continue
            judged = verdicts_of(trace_image(detector, array, record, record.proposals))
            found += [-1 if j is None else names.index(j.verdict.value) for j in judged]
            if budget is not None and (time.monotonic() - begun) / number * len(dataset) > budget:
                return evaluation
            if progress is not None:
                progress(number, len(dataset))
    texts = tuple(VERDICT_TEXTS[v] for v in ObjectVerdict)
    verdicts = np.array(found, np.int64)
    return replace(evaluation, verdicts=verdicts, verdict_names=tuple(names), verdict_texts=texts)
