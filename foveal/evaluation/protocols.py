"""``score_detections``: one call for every protocol, and the results it returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..errors import UsageError, nearest
from .coco import Coco, score_coco
from .curves import Curves, finite_or_none, mean_defined
from .matching import MatchTable
from .tables import DetectionTable, GroundTruth
from .voc import Voc, score_voc

Protocol = Coco | Voc
PROTOCOLS: dict[str, Protocol] = {"coco": Coco(), "voc07": Voc("11-point"), "voc10": Voc("area")}


@dataclass(frozen=True, eq=False)
class Results:
    """What an evaluation says. All numbers are fractions; ``None`` is undefined and stays out of every mean."""

    protocol: Protocol
    split: str | None
    images: int
    objects: dict[str, int]  # class -> objects that count
    numbers: dict[str, float | None]  # the twelve COCO numbers, or {"mAP"}
    per_class: dict[str, dict[str, float | None]]
    curves: Curves  # class -> recall, precision, score
    table: MatchTable
    masks: dict[str, Any] | None = None  # the same numbers of masks, with their "per_class", where there are masks
    notes: tuple[str, ...] = field(default=())  # what is odd about these numbers, in sentences

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
        """A plain table with the protocol above it. Names are never cut or wrapped."""
        split = f", split {self.split}" if self.split else ""
        lines = [f"{self.protocol}", f"{self.images} images, {sum(self.objects.values())} objects{split}", ""]
        if self.masks is None:
            lines += [f"{name:<6} {_shown(value)}" for name, value in self.numbers.items()]
        else:
            lines += [f"{'':<6} {'boxes':>6}  {'masks':>6}"]
            rows = ((name, value, self.masks[name]) for name, value in self.numbers.items())
            lines += [f"{name:<6} {_shown(box):>6}  {_shown(mask):>6}" for name, box, mask in rows]
        columns = ["AP", "AP50"] if isinstance(self.protocol, Coco) else ["AP"]
        width = max([len("class"), *map(len, self.per_class)])
        titles = columns if self.masks is None else [*columns, *("m" + c for c in columns)]
        lines += ["", f"{'class':<{width}}  objects  " + "  ".join(f"{c:>6}" for c in titles)]
        for name, values in self.per_class.items():
            cells = [_shown(values[c]) for c in columns]
            if self.masks is not None:
                cells += [_shown(self.masks["per_class"][name][c]) for c in columns]
            lines.append(f"{name:<{width}}  {self.objects[name]:>7}  " + "  ".join(f"{c:>6}" for c in cells))
        if self.notes:
            lines += ["", *(f"note: {note}" for note in self.notes)]
        return "\n".join(lines)


def score_detections(
    truth: GroundTruth,
    found: DetectionTable,
    protocol: str | Protocol = "coco",
    *,
    split: str | None = None,
    **options: Any,
) -> Results:
    """Scores detections: their boxes, and by ``coco`` their masks too where both sides have some.

    ``protocol``: "coco", "voc07", "voc10", or a :class:`Coco` or :class:`Voc`; ``options`` are fields of these
    (``iou``, ``strict``, ``plus_one``; ``max_dets``). Images without detections count: ``truth`` decides what is
    scored. A result near zero, or undefined, comes with a diagnosis in ``notes``.

    Raises :class:`UsageError` for an unknown protocol or option, :class:`FovealError` for detections that do not
    belong to ``truth``.
    """
    rules = resolve(protocol, **options)
    found.check_against(truth)
    masks: dict[str, Any] | None = None
    if isinstance(rules, Coco):
        coco = score_coco(truth, found, rules)
        numbers = coco.twelve()
        per_class = {name: coco.class_ap(k) for k, name in enumerate(truth.classes)}
        verdicts, table = coco.verdicts, coco.table
        if truth.masks is not None and found.masks is not None:
            drawn = score_coco(truth, found, rules, masks=True)
            own = {name: drawn.class_ap(k) for k, name in enumerate(truth.classes)}
            masks = {**drawn.twelve(), "per_class": own}
    else:
        voc = score_voc(truth, found, rules)
        numbers = {"mAP": mean_defined(voc.ap)}
        per_class = {name: {"AP": finite_or_none(voc.ap[k])} for k, name in enumerate(truth.classes)}
        verdicts, table = voc.verdicts, voc.table
    results = Results(
        protocol=rules,
        split=split,
        images=len(truth.images),
        objects={name: int(n) for name, n in zip(truth.classes, verdicts.objects, strict=True)},
        numbers=numbers,
        per_class=per_class,
        curves=Curves(truth.classes, verdicts),
        table=table,
        masks=masks,
    )
    return replace(results, notes=_notes(truth, found, results.headline))


def resolve(protocol: str | Protocol, **options: Any) -> Protocol:
    """The protocol of that name, with options set."""
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


def _notes(truth: GroundTruth, found: DetectionTable, headline: float | None) -> tuple[str, ...]:
    from .diagnosis import NEAR_ZERO, diagnose, thresholded

    missing = tuple(_without_masks(truth, found))
    if headline is None or headline < NEAR_ZERO:
        return (*diagnose(truth, found), *missing)
    return (*thresholded(found), *missing)


def _without_masks(truth: GroundTruth, found: DetectionTable) -> Iterator[str]:
    """What is not scored of detections that have masks."""
    if found.masks is None:
        return
    if truth.masks is None or truth.drawn is None:
        yield "The data has no masks: the masks of the detections are not scored."
    elif missing := int((~truth.drawn & ~truth.ignore).sum()):
        yield f"{missing} objects have no mask in the data: they are left out of the masks' numbers."


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
