"""The numbers of a comparison: scores, differences with intervals and verdicts, errors, funnels, thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...evaluation import Results, score_detections
from ...evaluation.statistics.comparing import PairComparison, compare_runs
from ...evaluation.statistics.curve_bands import CurveBand, curve_bands
from ...evaluation.statistics.false_discovery import chance_of, class_discoveries
from ...evaluation.statistics.influence import influence_on
from ...evaluation.statistics.intervals import FEWEST_IMAGES
from ...evaluation.tables import DetectionTable
from ...files.aliases import Floats
from ..evaluation_file import RunEvaluation
from ..read_run import RunRecord
from ..statistics.operating import (
    Calibration,
    WorkingPoint,
    best_f1,
    calibration,
    empty_images,
    false_alarms,
    pooled,
)
from .sides import SettingDifference, letter

HIGHEST = 0.5  # threshold of a run that hits nothing


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One run of a side."""

    label: str
    record: RunRecord
    evaluation: RunEvaluation
    results: Results

    @cached_property
    def point(self) -> WorkingPoint | None:
        """Where its F1 is the best."""
        return best_f1(pooled(self.results.curves))

    @property
    def cut(self) -> float:
        """The score of :attr:`point`."""
        return HIGHEST if self.point is None else self.point.score

    @cached_property
    def calibration(self) -> Calibration:
        """Over all its detections."""
        return calibration(pooled(self.results.curves))

    @cached_property
    def false_alarms(self) -> float | None:
        """An image without any known class, from :attr:`cut` on."""
        return false_alarms(self.evaluation.truth, self.evaluation.table, self.cut)

    @cached_property
    def at_cut(self) -> Results:
        """The scores of its detections from :attr:`cut` on."""
        table: DetectionTable = self.evaluation.table
        return score_detections(self.evaluation.truth, table[table.score >= self.cut], self.results.protocol)

    @property
    def minutes(self) -> float | None:
        """Of training, without validation."""
        spent = [
            value
            for row in self.record.metrics
            for name, value in row.items()
            if name.startswith("seconds_") and isinstance(value, (int, float))
        ]
        return sum(spent) / 60 if spent else None


@dataclass(frozen=True, eq=False)
class Side:
    """Runs that differ in their seed alone."""

    index: int
    runs: tuple[ComparedRun, ...]

    @property
    def letter(self) -> str:
        """A is the baseline."""
        return letter(self.index)

    @property
    def label(self) -> str:
        """The labels of its runs."""
        return ", ".join(run.label for run in self.runs)

    def mean(self, number: str) -> float | None:
        """The mean score of its runs."""
        values = [run.results.numbers[number] for run in self.runs]
        return None if any(v is None for v in values) else float(np.mean([v for v in values if v is not None]))

    def spread(self, number: str) -> float | None:
        """The sample standard deviation over its seeds."""
        values = [v for run in self.runs if (v := run.results.numbers[number]) is not None]
        return float(np.std(values, ddof=1)) if len(values) == len(self.runs) > 1 else None

    def interval(self, number: str) -> tuple[float, float] | None:
        """The 95 % interval of the mean of its runs, from the choice of images."""
        found = [run.results.intervals.numbers[number] for run in self.runs]
        lows = [(i.low, i.high) for i in found if i.low is not None and i.high is not None]
        if len(lows) < len(found):
            return None
        return float(np.mean([low for low, _ in lows])), float(np.mean([high for _, high in lows]))

    def counts(self, at_cut: bool) -> dict[str, dict[str, float]]:
        """The kinds of errors, means over its runs; ``at_cut``: of detections from the best-F1 score on."""
        errors = [(run.at_cut if at_cut else run.results).errors for run in self.runs]
        return {
            "false_detections": _means([e.false_detections() for e in errors]),
            "not_found": _means([e.not_found() for e in errors]),
        }

    @cached_property
    def funnel(self) -> dict[str, float] | None:
        """Text of the verdict -> objects, means over its runs; ``None`` where a run has no verdicts."""
        rows = []
        for run in self.runs:
            found = run.evaluation.verdicts
            if found is None:
                return None
            counts = np.bincount(found[found >= 0], minlength=len(run.evaluation.verdict_texts))
            rows.append(dict(zip(run.evaluation.verdict_texts, counts.tolist(), strict=True)))
        return _means(rows)

    @cached_property
    def bands(self) -> dict[str, CurveBand]:
        """The precision-recall curves of the classes, under ``""`` their mean."""
        return curve_bands([run.results.run for run in self.runs])

    def average(self, values: Sequence[float | None]) -> float | None:
        """The mean of a value of each run; ``None`` where one has none."""
        known = [v for v in values if v is not None]
        return float(np.mean(known)) if len(known) == len(self.runs) else None


@dataclass(frozen=True, eq=False)
class Pair:
    """A side against the baseline."""

    baseline: Side
    candidate: Side
    scores: PairComparison
    settings: tuple[SettingDifference, ...]
    influence: Floats  # (I,) of each image on the difference of the headline

    @property
    def name(self) -> str:
        """As in ``B against A``."""
        return f"{self.candidate.letter} against {self.baseline.letter}"

    @property
    def spec_note(self) -> str:
        """What the difference may be put down to, in a sentence."""
        if not self.settings:
            return "They differ in the seed alone: any difference is one of seeds."
        if len(self.settings) == 1:
            return f"One setting differs: {self.settings[0].name}."
        return (
            f"{len(self.settings)} settings differ: a difference of the scores cannot be put down to any one of them."
        )

    def discoveries(self, number: str) -> dict[str, bool]:
        """Class -> whether its difference remains when all classes are judged together."""
        return class_discoveries(self.scores.per_class, number)


@dataclass(frozen=True, eq=False)
class RunComparison:
    """Several sides on the same images, each against the first."""

    sides: tuple[Side, ...]
    pairs: tuple[Pair, ...]
    protocol: str
    notes: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The name of the number that decides."""
        return "AP" if self.protocol == "coco" else "mAP"

    @property
    def runs(self) -> list[ComparedRun]:
        """All runs, side by side."""
        return [run for side in self.sides for run in side.runs]

    @property
    def first(self) -> RunEvaluation:
        """The evaluation of the first run, whose images and objects are those of all."""
        return self.sides[0].runs[0].evaluation

    @property
    def worst(self) -> str:
        """``worse`` if a candidate is, else ``cannot tell`` if one cannot be told, else ``better``."""
        found = {pair.scores.numbers[self.headline].verdict for pair in self.pairs}
        return next((v for v in ("worse", "cannot tell") if v in found), "better")

    def to_dict(self) -> dict[str, Any]:
        """The form of ``foveal compare --json``."""
        truth = self.first.truth
        return {
            "protocol": self.protocol,
            "split": self.first.split,
            "images": len(truth.images),
            "images_without_known_class": int(empty_images(truth).sum()),
            "classes": list(truth.classes),
            "headline": self.headline,
            "sides": [_side_json(side) for side in self.sides],
            "pairs": [self._pair_json(pair) for pair in self.pairs],
            "notes": list(self.notes),
        }

    def _pair_json(self, pair: Pair) -> dict[str, Any]:
        scores = pair.scores.to_dict()
        names = next(iter(pair.scores.per_class.values()), {})
        order = np.argsort(-np.abs(np.nan_to_num(pair.influence)), kind="stable")[:20]
        images = pair.baseline.runs[0].evaluation.truth.images
        chances = {
            number: {name: chance_of(row[number]) for name, row in pair.scores.per_class.items()} for number in names
        }
        return {
            "baseline": pair.baseline.letter,
            "candidate": pair.candidate.letter,
            "verdict": pair.scores.numbers[self.headline].verdict,
            "settings": [{"name": s.name, "values": list(s.values), "folded": s.folded} for s in pair.settings],
            "settings_note": pair.spec_note,
            **scores,
            "class_chances": chances,
            "class_discoveries": {number: pair.discoveries(number) for number in names},
            "influence": [{"image": images[i], "value": float(pair.influence[i])} for i in order if pair.influence[i]],
        }


def compare(
    groups: Sequence[Sequence[ComparedRun]], settings: Sequence[Sequence[SettingDifference]], notes: Sequence[str]
) -> RunComparison:
    """Compares each group of runs with the first. ``settings``: in what each other group differs from it."""
    sides = tuple(Side(index, tuple(group)) for index, group in enumerate(groups))
    protocol = sides[0].runs[0].results.protocol.name
    headline = "AP" if protocol == "coco" else "mAP"
    pairs = []
    for side, differences in zip(sides[1:], settings, strict=True):
        left, right = ([run.results.run for run in each.runs] for each in (sides[0], side))
        influence = influence_on(right, left).numbers[headline]
        scores = compare_runs(left, right)
        pairs.append(Pair(sides[0], side, scores, tuple(differences), influence))
    notes = [*notes, *_said(sides)]
    return RunComparison(sides, tuple(pairs), protocol, tuple(dict.fromkeys(notes)))


def compared_run(label: str, record: RunRecord, evaluation: RunEvaluation, protocol: str) -> ComparedRun:
    """A run with its scores by ``protocol``."""
    results = score_detections(evaluation.truth, evaluation.table, protocol, split=evaluation.split)
    return ComparedRun(label, record, evaluation, replace(results, split=evaluation.split))


def _said(sides: Sequence[Side]) -> list[str]:
    """What to bear in mind, in sentences."""
    notes = []
    truth = sides[0].runs[0].evaluation.truth
    if len(truth.images) < FEWEST_IMAGES:
        notes.append(f"There are {len(truth.images)} images: fewer than {FEWEST_IMAGES} say too little to judge.")
    if not len(truth):
        notes.append("The images have no object at all: every score is undefined.")
    if len(truth.classes) == 1:
        notes.append("There is a single class.")
    for run in (run for side in sides for run in side.runs):
        if not len(run.evaluation.table):
            notes.append(f"{run.label} has no detections at all.")
        if run.evaluation.skipped:
            count = len(run.evaluation.skipped)
            notes.append(f"{run.label}: {count} images could not be read; they count as images without detections.")
        notes += [f"{run.label}: {note}" for note in run.results.notes]
    return notes


def _side_json(side: Side) -> dict[str, Any]:
    names = list(side.runs[0].results.numbers)
    return {
        "side": side.letter,
        "runs": [str(run.record.path) for run in side.runs],
        "seeds": [run.record.run.get("seed") for run in side.runs],
        "numbers": {n: {"mean": side.mean(n), "std": side.spread(n), "interval": side.interval(n)} for n in names},
        "errors": side.counts(at_cut=False),
        "errors_at_best_f1": side.counts(at_cut=True),
        "funnel": side.funnel,
        "best_f1": [None if run.point is None else run.point.to_dict() for run in side.runs],
        "calibration": [run.calibration.to_dict() for run in side.runs],
        "false_alarms": side.average([run.false_alarms for run in side.runs]),
        "seconds_per_image": [run.evaluation.seconds for run in side.runs],
        "device": [run.evaluation.device for run in side.runs],
        "training_minutes": [run.minutes for run in side.runs],
    }


def _means(rows: Sequence[dict[str, int]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
