"""Makes a comparison from run folders: checks that they may be compared, and evaluates what is not evaluated yet."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoints.folder import find_checkpoint
from ...data.records.trained_on import pack
from ...errors import FovealError, UsageError
from ...files.aliases import PathLike
from ...files.atomic import read_object
from ..evaluate_run import EvaluationRequest, ProgressOf, evaluate_run, newest_evaluation, validation_set
from ..evaluation_file import RunEvaluation
from ..read_run import RunRecord
from .compared import RunComparison, compare, compared_run
from .refusals import NamedEvaluation, check_versions, common_protocol, comparable
from .settings import labels
from .sides import finished_records, run_folders, setting_differences, side_groups

if TYPE_CHECKING:
    from ...data.records.dataset import Dataset

FEWEST_RUNS = 2
DATA_ARGUMENTS = ("data", "val", "split", "images", "classes", "others", "convention", "limit")


@dataclass(frozen=True)
class CompareOptions:
    """What to compare the runs on, and how."""

    data: Any = None  # None: the images that each validated on
    split: str | None = None
    images: Path | None = None
    convention: str | None = None
    limit: int | None = None
    classes: Sequence[str] | None = None
    protocol: str | None = None
    min_score: float | None = None
    accept: Sequence[str] = ()
    request: EvaluationRequest = field(default_factory=EvaluationRequest)


def compare_folders(
    paths: Sequence[PathLike],
    options: CompareOptions = CompareOptions(),
    *,
    on_data: Callable[[Dataset], None] = lambda _: None,
    task: ProgressOf = lambda _: nullcontext(),
) -> RunComparison:
    """Compares runs; the first of them is the baseline.

    Runs that differ in their seed alone are one side. Detections that a run does not keep are made, and kept in it.
    ``on_data`` is called with each dataset that is read; ``task("detecting")`` creates the progress callback of a
    phase. Raises :class:`FovealError` where they cannot be compared, with the runs and what to do.
    """
    given = [Path(path) for path in paths]
    folders = run_folders(given)
    if len(folders) < FEWEST_RUNS <= len(given):
        folders = given  # a run against itself
    if len(folders) < FEWEST_RUNS:
        raise UsageError("compare needs at least two runs", fix="Give at least two run folders")
    records = finished_records(folders)
    notes = check_versions(records, options.accept)
    protocol = common_protocol(records, options.protocol)
    evaluations, said = _evaluations(records, options, on_data, task)
    named = [NamedEvaluation(r.path, e) for r, e in zip(records, evaluations, strict=True)]
    alike = comparable(named, options.classes, options.min_score)
    called = labels(records)
    runs = [compared_run(*each, protocol) for each in zip(called, records, alike, strict=True)]
    groups = side_groups(records)
    first = records[groups[0][0]]
    settings = [setting_differences([first, records[group[0]]]) for group in groups[1:]]
    return compare([[runs[i] for i in group] for group in groups], settings, [*notes, *said])


def _evaluations(
    records: Sequence[RunRecord], options: CompareOptions, on_data: Callable[[Dataset], None], task: ProgressOf
) -> tuple[list[RunEvaluation], list[str]]:
    """Of each run, on the data asked for or on the images that it validated on; and what to say about them."""
    if options.data is not None:
        dataset = _common_set(records, options)
        on_data(dataset)
        said = [f"{f.message[0].upper()}{f.message[1:]}." for f in dataset.findings if f.code == "trained-on"]
        return [_made(evaluate_run(r, dataset, options.request, task)) for r in records], said
    notes = ["Each run validated on these images to choose its best weights: the scores are a little too good."]
    sets: dict[str, Dataset] = {}
    found = []
    for record in records:
        arguments = record.run.get("arguments", {})
        key = json.dumps([*(arguments.get(name) for name in DATA_ARGUMENTS), record.run.get("divided")], default=str)
        try:
            if key not in sets:
                sets[key] = validation_set(record)
                on_data(sets[key])
        except FovealError:
            kept = newest_evaluation(record.path)
            if kept is None:
                raise
            notes.append(f"The data of {record.path.name} could not be read again: its kept detections are used.")
            found.append(kept)
            continue
        found.append(_made(evaluate_run(record, sets[key], options.request, task)))
    return found, notes


def _made(evaluation: RunEvaluation | None) -> RunEvaluation:
    assert evaluation is not None  # without a budget
    return evaluation


def _common_set(records: Sequence[RunRecord], options: CompareOptions) -> Dataset:
    """One dataset for all runs, with a finding on the images that trained any of them."""
    from ...evaluation.scoring import evaluation_set

    trained = [read_object(find_checkpoint(r.path) / "spec.json").get("trained_on", "") for r in records]
    dataset = evaluation_set(
        options.data,
        split=options.split,
        images=options.images,
        convention=options.convention,
        trained_on=pack([], *filter(None, trained)),
    )
    return replace(dataset, records=dataset.records[: options.limit])
