"""Scores detections by a named protocol (``score_detections``) and holds the results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..errors import UsageError, nearest
from ..files.text import one_line
from .coco import Coco, score_coco
from .curves import Curves, finite_or_none, mean_defined
from .matching import MatchTable
from .tables import DetectionTable, GroundTruth
from .voc import Voc, score_voc

Protocol = Coco | Voc
PROTOCOLS: dict[str, Protocol] = {"coco": Coco(), "voc07": Voc("11-point"), "voc10": Voc("area")}


@dataclass(frozen=True, eq=False)
class Results:
    """The results of an evaluation. All metrics are fractions; ``None`` is undefined and excluded from every mean."""

    protocol: Protocol
    split: str | None
    images: int
    objects: dict[str, int]  # class -> objects that count
    numbers: dict[str, float | None]  # the twelve COCO numbers, or {"mAP"}
    per_class: dict[str, dict[str, float | None]]
    curves: Curves  # class -> recall, precision, score
    table: MatchTable
    masks: dict[str, Any] | None = None  # the same metrics of masks, with their "per_class", where there are masks
    notes: tuple[str, ...] = field(default=())  # warnings about these metrics, in sentences

    @property
    def headline(self) -> float | None:
        """AP of ``coco``, mAP of ``voc07`` and ``voc10``."""
        return self.numbers["AP" if isinstance(self.protocol, Coco) else "mAP"]

    def to_dict(self) -> dict[str, Any]:
        """The stable form of ``results.json``."""
        head: dict[str, Any] = {"protocol": self.protocol.name, "split": self.split, "images": self.images}
        masks = {} if self.masks is None else {"masks": self.masks}
        return head | self.numbers | {"per_class": self.per_class} | masks

    def text(self) -> str:
        """A plain table with the protocol above it. Names are never truncated or wrapped."""
        split = f", split {self.split}" if self.split else ""
        lines = [f"{self.protocol}", f"{self.images} images, {sum(self.objects.values())} objects{split}", ""]
        if self.masks is None:
            lines += [f"{name:<6} {_shown(value)}" for name, value in self.numbers.items()]
        else:
            lines += [f"{'':<6} {'boxes':>6}  {'masks':>6}"]
            rows = ((name, value, self.masks[name]) for name, value in self.numbers.items())
            lines += [f"{name:<6} {_shown(box):>6}  {_shown(mask):>6}" for name, box, mask in rows]
        columns = ["AP", "AP50"] if isinstance(self.protocol, Coco) else ["AP"]
        width = max([len("class"), *(len(one_line(name)) for name in self.per_class)])
        titles = columns if self.masks is None else [*columns, *("m" + c for c in columns)]
        lines += ["", f"{'class':<{width}}  objects  " + "  ".join(f"{c:>6}" for c in titles)]
        for name, values in self.per_class.items():
            cells = [_shown(values[c]) for c in columns]
            if self.masks is not None:
                cells += [_shown(self.masks["per_class"][name][c]) for c in columns]
            lines.append(f"{one_line(name):<{width}}  {self.objects[name]:>7}  " + "  ".join(f"{c:>6}" for c in cells))
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
    if isinstance(chosen, Coco):
        coco = score_coco(truth, detections, chosen)
        numbers = coco.twelve()
        per_class = {name: coco.class_ap(k) for k, name in enumerate(truth.classes)}
        outcomes, table = coco.outcomes, coco.table
        if truth.masks is not None and detections.masks is not None:
            mask_numbers = score_coco(truth, detections, chosen, masks=True)
            mask_per_class = {name: mask_numbers.class_ap(k) for k, name in enumerate(truth.classes)}
            masks = {**mask_numbers.twelve(), "per_class": mask_per_class}
    else:
        voc = score_voc(truth, detections, chosen)
        numbers = {"mAP": mean_defined(voc.ap)}
        per_class = {name: {"AP": finite_or_none(voc.ap[k])} for k, name in enumerate(truth.classes)}
        outcomes, table = voc.outcomes, voc.table
    results = Results(
        protocol=chosen,
        split=split,
        images=len(truth.images),
        objects={name: int(n) for name, n in zip(truth.classes, outcomes.objects, strict=True)},
        numbers=numbers,
        per_class=per_class,
        curves=Curves(truth.classes, outcomes),
        table=table,
        masks=masks,
    )
    return replace(results, notes=_notes(truth, detections, results.headline))


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


def _notes(truth: GroundTruth, detections: DetectionTable, headline: float | None) -> tuple[str, ...]:
    from .diagnosis import NEAR_ZERO, diagnose, thresholded

    missing = tuple(_without_masks(truth, detections))
    if headline is None or headline < NEAR_ZERO:
        return (*diagnose(truth, detections), *missing)
    return (*thresholded(detections), *missing)


def _without_masks(truth: GroundTruth, detections: DetectionTable) -> Iterator[str]:
    """Notes on the masks that are not scored, for detections with masks."""
    if detections.masks is None:
        return
    if truth.masks is None or truth.drawn is None:
        yield "The data has no masks: the masks of the detections are not scored."
    elif missing := int((~truth.drawn & ~truth.ignore).sum()):
        yield f"{missing} objects have no mask in the data: they are left out of the masks' numbers."


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
