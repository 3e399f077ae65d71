"""Scores detections by a named protocol and holds the results, with their intervals and the kinds of errors.

Also compares two detectors on the same images (``compare_pairs``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..errors import UsageError, nearest
from .coco import Coco, CocoNumbers, score_coco
from .curves import MISS, Curves, finite_or_none, mean_defined
from .matching import MatchTable, match_table
from .statistics.comparing import PairComparison, compare_runs
from .statistics.error_kinds import BACKGROUND_IOU, NO_ERROR, ErrorKinds, Overlaps, classify_errors
from .statistics.influence import Influence, influence_on
from .statistics.intervals import Intervals, ScoredRun, intervals_of
from .statistics.score_table import ScoreSide, score_table
from .tables import DetectionTable, GroundTruth
from .voc import Voc, VocNumbers, score_voc

Protocol = Coco | Voc
PROTOCOLS: dict[str, Protocol] = {"coco": Coco(), "voc07": Voc("11-point"), "voc10": Voc("area")}


@dataclass(frozen=True, eq=False)
class Results:
    """The results of an evaluation. All metrics are fractions; ``None`` is undefined and excluded from every mean.

    Intervals, influences and kinds of errors are computed when they are first asked for.
    """

    protocol: Protocol
    split: str | None
    images: int
    objects: dict[str, int]  # class -> objects that count
    numbers: dict[str, float | None]  # the twelve COCO numbers, or {"mAP"}
    per_class: dict[str, dict[str, float | None]]
    curves: Curves  # class -> recall, precision, score
    table: MatchTable
    run: ScoredRun  # the decisions that the numbers follow from
    find_errors: Callable[[], ErrorKinds]
    masks: dict[str, Any] | None = None  # the same metrics of masks, with their "per_class", where there are masks
    mask_run: ScoredRun | None = None
    notes: tuple[str, ...] = field(default=())  # warnings about these metrics, in sentences
    dropped: dict[str, Any] | None = None  # objects whose boxes cannot be used, if any: how many, whether they count

    @property
    def headline(self) -> float | None:
        """AP of ``coco``, mAP of ``voc07`` and ``voc10``."""
        return self.numbers["AP" if isinstance(self.protocol, Coco) else "mAP"]

    @cached_property
    def intervals(self) -> Intervals:
        """The 95 % intervals of all numbers (of the boxes)."""
        return intervals_of(self.run)

    @cached_property
    def mask_intervals(self) -> Intervals | None:
        """Those of the masks' numbers, where there are masks."""
        return None if self.mask_run is None else intervals_of(self.mask_run)

    @cached_property
    def influence(self) -> Influence:
        """How much each image adds to each number (of the boxes)."""
        return influence_on([self.run])

    @cached_property
    def errors(self) -> ErrorKinds:
        """The kinds of errors, of boxes at the lowest IoU of a hit (.5)."""
        return self.find_errors()

    def to_dict(self, *, intervals: bool = False, errors: bool = False) -> dict[str, Any]:
        """The stable form of ``results.json``; on request with ``intervals`` and ``errors`` under keys of their own."""
        head: dict[str, Any] = {"protocol": self.protocol.name, "split": self.split, "images": self.images}
        more: dict[str, Any] = {} if self.masks is None else {"masks": self.masks}
        more |= {} if self.dropped is None else {"dropped_objects": self.dropped}
        if intervals:
            of_masks = {} if self.mask_intervals is None else {"masks": self.mask_intervals.to_dict()}
            more["intervals"] = self.intervals.to_dict() | of_masks
        if errors:
            more["errors"] = self.errors.to_dict()
        return head | self.numbers | {"per_class": self.per_class} | more

    def text(self, *, intervals: bool = False, errors: bool = False) -> str:
        """A plain table with the protocol above it, on request with intervals and the table of ``errors``. Names are
        never truncated or wrapped."""
        split = f", split {self.split}" if self.split else ""
        lines = [f"{self.protocol}", f"{self.images} images, {sum(self.objects.values())} objects{split}"]
        if intervals:
            lines.append(self.intervals.note)
        shown = intervals and not self.intervals.refused
        sides = [ScoreSide("", self.numbers, self.per_class, self.intervals if shown else None)]
        if self.masks is not None:
            sides.append(ScoreSide("m", self.masks, self.masks["per_class"], self.mask_intervals if shown else None))
        lines += ["", *score_table(sides, self.objects)]
        if errors:
            lines += ["", self.errors.text()]
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)


def score_detections(
    truth: GroundTruth,
    detections: DetectionTable,
    protocol: str | Protocol = "coco",
    *,
    split: str | None = None,
    **options: Any,
) -> Results:
    """Scores the boxes of detections, and by ``coco`` their masks too where both sides have masks.

    ``protocol``: "coco", "voc07", "voc10", or a :class:`Coco` or :class:`Voc`; ``options`` are fields of these
    (``iou``, ``strict``, ``plus_one``; ``max_dets``). Images without detections count: ``truth`` decides what is
    scored. A result near zero, or undefined, comes with a diagnosis in ``notes``.

    Raises :class:`UsageError` for an unknown protocol or option, :class:`FovealError` for detections that do not
    belong to ``truth``.
    """
    chosen = resolve(protocol, **options)
    detections.check_against(truth)
    masks: dict[str, Any] | None = None
    mask_run: ScoredRun | None = None
    scored: CocoNumbers | VocNumbers
    if isinstance(chosen, Coco):
        scored = score_coco(truth, detections, chosen)
        numbers, per_class = _coco_numbers(scored, truth)
        if truth.masks is not None and detections.masks is not None:
            of_masks = score_coco(truth, detections, chosen, masks=True)
            mask_numbers, mask_per_class = _coco_numbers(of_masks, truth)
            masks = {**mask_numbers, "per_class": mask_per_class}
            mask_run = _run(of_masks, mask_numbers, mask_per_class)
    else:
        scored = score_voc(truth, detections, chosen)
        numbers = {"mAP": mean_defined(scored.ap)}
        per_class = {name: {"AP": finite_or_none(scored.ap[k])} for k, name in enumerate(truth.classes)}
    outcomes = scored.outcomes
    results = Results(
        protocol=chosen,
        split=split,
        images=len(truth.images),
        objects={name: int(n) for name, n in zip(truth.classes, outcomes.objects, strict=True)},
        numbers=numbers,
        per_class=per_class,
        curves=Curves(truth.classes, outcomes),
        table=scored.table,
        run=_run(scored, numbers, per_class),
        find_errors=partial(_errors, truth, detections, scored, chosen),
        masks=masks,
        mask_run=mask_run,
        dropped={"count": truth.dropped, "scored": truth.counts_dropped} if truth.dropped else None,
    )
    return replace(results, notes=_notes(truth, detections, chosen, results.headline))


def intervals(
    truth: GroundTruth,
    detections: DetectionTable,
    protocol: str | Protocol = "coco",
    *,
    resamples: int | None = None,
    **options: Any,
) -> Intervals:
    """The 95 % intervals of every number of ``protocol``, and of every class.

    ``resamples``: 1,000 by default, as in ``score_detections(...).intervals``, and fewer for very large sets. Under 20
    images with objects there is no interval. Raises what :func:`score_detections` raises.
    """
    return intervals_of(score_detections(truth, detections, protocol, **options).run, resamples)


def compare_pairs(
    truth: GroundTruth,
    baseline: DetectionTable | Sequence[DetectionTable],
    candidate: DetectionTable | Sequence[DetectionTable],
    protocol: str | Protocol = "coco",
    *,
    resamples: int | None = None,
    **options: Any,
) -> PairComparison:
    """Whether ``candidate`` is better than ``baseline``: better, worse or cannot tell, for every number and class.

    Each is the detections of one run, or of several that differ in their seed, on the images of ``truth``. The same
    resamples of the images serve all runs. ``resamples``: 1,000 by default, fewer for very large sets.

        comparison = compare_pairs(truth, [a0, a1, a2], [b0, b1, b2])
        comparison.numbers["AP"].verdict, comparison.numbers["AP"].reason

    Raises :class:`UsageError` for a side without a run, and what :func:`score_detections` raises.
    """
    sides = _sides(truth, baseline, candidate, protocol, options)
    first, second = ([result.run for result in side] for side in sides)
    comparison = compare_runs(first, second, resamples)
    notes = [
        f"{name}: {note}"
        for name, side in zip(("Baseline", "Candidate"), sides, strict=True)
        for result in side
        for note in result.notes
    ]
    return replace(comparison, warnings=tuple(dict.fromkeys(notes)))


def pair_influence(
    truth: GroundTruth,
    baseline: DetectionTable | Sequence[DetectionTable],
    candidate: DetectionTable | Sequence[DetectionTable],
    protocol: str | Protocol = "coco",
    **options: Any,
) -> Influence:
    """How much each image adds to each difference (candidate less baseline). Arguments as in :func:`compare_pairs`."""
    first, second = _sides(truth, baseline, candidate, protocol, options)
    return influence_on([result.run for result in second], [result.run for result in first])


def _sides(
    truth: GroundTruth,
    baseline: DetectionTable | Sequence[DetectionTable],
    candidate: DetectionTable | Sequence[DetectionTable],
    protocol: str | Protocol,
    options: dict[str, Any],
) -> tuple[list[Results], list[Results]]:
    """The results of every run of both sides."""
    sides: list[list[Results]] = []
    for name, side in (("baseline", baseline), ("candidate", candidate)):
        tables = [side] if isinstance(side, DetectionTable) else list(side)
        if not tables:
            raise UsageError(f"{name} has no run", fix="Give the detections of at least one run")
        sides.append([score_detections(truth, table, protocol, **options) for table in tables])
    return sides[0], sides[1]


def _coco_numbers(scored: CocoNumbers, truth: GroundTruth) -> tuple[dict[str, Any], dict[str, Any]]:
    return scored.twelve(), {name: scored.class_ap(k) for k, name in enumerate(truth.classes)}


def _run(scored: CocoNumbers | VocNumbers, numbers: dict[str, Any], per_class: dict[str, Any]) -> ScoredRun:
    """With the numbers as arrays, NaN for ``None``."""
    names = scored.ranked.rule.class_names
    rows = [[row[name] for name in names] for row in per_class.values()]
    return ScoredRun(
        scored.ranked,
        np.array(list(numbers.values()), np.float64),
        np.array(rows, np.float64).reshape(len(rows), len(names)),
    )


def _errors(
    truth: GroundTruth, detections: DetectionTable, scored: CocoNumbers | VocNumbers, protocol: Protocol
) -> ErrorKinds:
    rows = np.sort(scored.outcomes.rows[scored.outcomes.outcome == MISS])
    counts = np.flatnonzero(~truth.ignore)[scored.ranked.object_counts[0]]
    objects, false = truth[counts], detections[rows]
    found = scored.found[scored.ranked.object_counts[0]]
    plus_one, strict = (protocol.plus_one, protocol.strict) if isinstance(protocol, Voc) else (False, False)
    pairs = match_table(objects, false, floor=BACKGROUND_IOU, by_class=False, crowd=False, plus_one=plus_one)
    overlaps = Overlaps(false.label, false.score, objects.label, found, pairs.detection, pairs.object, pairs.iou)
    kind, object_kind = classify_errors(overlaps, scored.outcomes.iou, strict=strict)
    lost = np.flatnonzero(object_kind != NO_ERROR)
    return ErrorKinds(
        truth.classes,
        scored.outcomes.iou,
        rows,
        kind,
        false.label,
        counts[lost],
        object_kind[lost],
        objects.label[lost],
    )


def resolve(protocol: str | Protocol, **options: Any) -> Protocol:
    """The protocol of that name, with options set. Raises :class:`UsageError` for an unknown name or option."""
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise UsageError(f"unknown protocol {protocol!r}", fix=nearest(protocol, PROTOCOLS, "protocols"))
        protocol = PROTOCOLS[protocol]
    known = [f.name for f in fields(protocol)]
    for name in options:
        if name not in known:
            fix = nearest(name, known, "options")
            raise UsageError(f"protocol {protocol.name} has no option {name!r}", fix=fix)
    return replace(protocol, **options)


def _notes(
    truth: GroundTruth, detections: DetectionTable, protocol: Protocol, headline: float | None
) -> tuple[str, ...]:
    from .diagnosis import NEAR_ZERO, diagnose, left_out, over_limit, thresholded, unmasked

    last = (*left_out(truth), *unmasked(truth, detections))
    limit = tuple(over_limit(truth, detections, protocol.max_dets[-1])) if isinstance(protocol, Coco) else ()
    if headline is None or headline < NEAR_ZERO:
        return (*limit, *diagnose(truth, detections), *last)
    return (*(limit or thresholded(detections)), *last)
