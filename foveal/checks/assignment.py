"""The encode/decode round trip of ``foveal check``: objects to targets to perfect predictions to detections.

Perfect predictions are made for the annotated objects, with the detector's own matcher, coder and classes, and decoded
with its own score, select and suppress. The detections must have AP 1.0, except for collisions: objects that cannot
survive, listed with the reason. :mod:`foveal.checks.overfit` is the other half of the check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..assembly.detector import Detector
from ..assembly.one_stage import OneStage
from ..assembly.proposers import FromRPN
from ..assembly.task import BoxTask, merge_classes, without_validity
from ..assembly.two_stage import TwoStage
from ..data.images.load import ImageError, load_image
from ..data.loader.shared_records import network_targets
from ..data.records.dataset import Dataset
from ..data.records.subsets import merged
from ..evaluation import DetectionTable, GroundTruth, score_detections
from ..files.aliases import OnProgress
from ..parts.postprocess import NMS
from ..types import Images, Predictions, Priors, Targets

if TYPE_CHECKING:
    from ..assembly.detector import Spec

SURE = 12.0  # a logit that is certain: its sigmoid is 0.999994
SAME = 0.9  # IoU from which a decoded box is the object it came from; COCO's strictest threshold is .95


@dataclass
class TaskCheck:
    """The round trip of one task: ``rpn``, ``roi`` or ``task``."""

    name: str
    objects: int = 0
    ap: float | None = None  # COCO AP of the objects that are not in ``lost``
    lost: list[str] = field(default_factory=list)  # collisions: one sentence for each, with the reason
    broken: list[str] = field(default_factory=list)  # objects lost without such a reason

    @property
    def passed(self) -> bool:
        return self.objects > 0 and not self.broken and (self.ap is None or self.ap > 0.999)


@dataclass
class _Gathered:
    """Objects and detections of a task, for its evaluation."""

    truth: list[tuple[int, int, list[float]]] = field(default_factory=list)  # image, label, box
    detections: list[tuple[int, int, list[float], float]] = field(default_factory=list)  # image, label, box, score


@torch.no_grad()
def encode(spec: Spec, dataset: Dataset, progress: OnProgress | None = None) -> list[TaskCheck]:
    """The round trip of every image, task by task. Difficult objects take part; crowds and ignored regions do not.

    Raises :class:`ImageError` for an image that cannot be read.
    """
    detector = spec.build(dataset.classes).eval()
    dataset = merged(dataset) if detector.class_agnostic else dataset
    checks: dict[str, tuple[TaskCheck, _Gathered]] = {}
    fit = replace(spec.fit, difficult="learn", crowd="ignore")
    for number, record in enumerate(dataset.records):
        images = detector.prepare([load_image(record.path)], [record.boxes.astype(np.float32)])
        targets = network_targets([record], images, fit)
        for name, task, priors, goal in _tasks(detector, images, targets):
            check, rows = checks.setdefault(name, (TaskCheck(name), _Gathered()))
            names = ("object",) if name == "rpn" else dataset.classes
            _one(check, rows, number, str(record.id), task, priors, goal, images, names)
        if progress is not None:
            progress(number + 1, len(dataset))
    for name, (check, rows) in checks.items():
        check.ap = _ap(rows, ("object",) if name == "rpn" else dataset.classes, len(dataset))
    return [check for check, _ in checks.values()]


def _tasks(detector: Detector, images: Images, targets: Targets) -> list[tuple[str, BoxTask, Priors, Targets]]:
    """Name, task, priors and objects of each task. The second stage gets the objects as its proposals, moved a little,
    because the first one's priors would only add what it lost."""
    outputs = detector.outputs(images)
    if isinstance(detector, OneStage):
        return [("task", detector.task, outputs.priors, targets)]
    if isinstance(detector, TwoStage):
        size = (targets.boxes[..., 2:] - targets.boxes[..., :2]).repeat(1, 1, 2)
        shift = torch.tensor([0.06, -0.04, 0.03, 0.05])
        proposals = Priors(targets.boxes + size * shift, (targets.boxes.shape[1],), targets.valid)
        second = ("roi", detector.roi, proposals, targets)
        if not isinstance(detector.proposer, FromRPN):
            return [second]
        return [("rpn", detector.proposer.counted(False), outputs.priors, merge_classes(targets)), second]
    return []


def perfect(task: BoxTask, priors: Priors, targets: Targets, classes: int) -> tuple[Predictions, Tensor, Tensor]:
    """The outputs of a perfect head: predictions (1, A, ...), and the match: object (A,), positive (A,) bool."""
    where = priors.places(1)
    blind = (where[..., :4], where.new_zeros(1, where.shape[1], classes))  # a matcher by outputs sees the priors
    match = task.matcher(priors, targets, blind if task.matcher.needs_outputs else None)
    labels = targets.labels.gather(1, match.gt)  # (1, A)
    truth = targets.boxes.gather(1, match.gt[..., None].expand(-1, -1, 4))
    truth = torch.where(match.positive[..., None], truth, where[..., :4])
    channels = task.cls_loss.channels(classes)
    yes, no = _certain(task.cls_loss.scores)
    logits = torch.full((1, where.shape[1], channels), no)
    logits.scatter_(2, labels[..., None], torch.where(match.positive, yes, no)[..., None])
    if channels > classes:  # background is the last column
        logits[..., -1] = torch.where(match.positive, no, yes)
    quality, rule = None, task.quality
    if rule is not None:
        quality = torch.where(match.positive, *_certain(lambda x: rule.scores(torch.ones(1, 1, 1), x[..., 0])))
    return Predictions(logits, task.coder.encode(truth, where), quality), match.gt[0], match.positive[0]


def _certain(scores: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """The outputs for yes and no: a high and a low logit, or 1 and 0 where the outputs are the scores (YOLOv1)."""
    return (SURE, -SURE) if scores(torch.tensor([[[SURE, -SURE]]])).max() <= 1 else (1.0, 0.0)


def _one(
    check: TaskCheck,
    rows: _Gathered,
    number: int,
    image: str,
    task: BoxTask,
    priors: Priors,
    targets: Targets,
    images: Images,
    names: Sequence[str],
) -> None:
    """Encodes and decodes the objects of one image."""
    predictions, gt, positive = perfect(task, priors, targets, len(names))
    detections = task.detect(predictions, without_validity(priors) if priors.valid is None else priors, images)
    matched = set(gt[positive].tolist())
    boxes, labels = targets.boxes[0], targets.labels[0]
    real = [int(g) for g in torch.nonzero(targets.valid[0]).flatten()]
    check.objects += len(real)
    valid = detections.valid[0]
    detected, classes, scores = (x[0][valid] for x in (detections.boxes, detections.labels, detections.scores))
    overlap = _iou(boxes, detected) * (labels[:, None] == classes)
    recovered = _paired(overlap)
    for g in real:
        who = f"image {image}, object {g + 1} ({names[int(labels[g])]}, {_size(boxes[g])} network px)"
        if g not in matched:
            check.lost.append(f"{who}: no prior is assigned to it")
        elif g in recovered:
            rows.truth.append((number, int(labels[g]), boxes[g].tolist()))
        elif reason := _collision(task, g, real, boxes, labels):
            check.lost.append(f"{who}: {reason}")
        else:
            best = float(overlap[g].max()) if overlap.shape[1] else 0.0
            check.broken.append(f"{who}: encoded, but decoded with IoU {best:.3f}")
            rows.truth.append((number, int(labels[g]), boxes[g].tolist()))
    for box, label, score in zip(detected, classes, scores, strict=True):
        rows.detections.append((number, int(label), box.tolist(), float(score)))


def _paired(overlap: Tensor) -> set[int]:
    """Objects with a detection of their own; (G, N) overlaps of the same class, the highest first."""
    objects: set[int] = set()
    used: set[int] = set()
    for index in overlap.flatten().argsort(descending=True, stable=True).tolist():
        g, n = divmod(index, overlap.shape[1])
        if float(overlap[g, n]) < SAME:
            break
        if g not in objects and n not in used:
            objects.add(g)
            used.add(n)
    return objects


def _collision(task: BoxTask, g: int, real: Sequence[int], boxes: Tensor, labels: Tensor) -> str:
    """Why an object that was encoded may be gone: it overlaps another one too much, or there are too many."""
    if len(real) > task.suppress.top:
        return f"the image holds more objects than the {task.suppress.top} detections of an image"
    if task.select.min_size > 0 and float((boxes[g, 2:] - boxes[g, :2]).min()) < task.select.min_size:
        return f"smaller than select.min_size={task.select.min_size:g}"
    if isinstance(task.suppress, NMS):
        for other in real:
            same = task.suppress.per != "class" or int(labels[g]) == int(labels[other])
            iou = float(_iou(boxes[g : g + 1], boxes[other : other + 1]))
            if other != g and same and iou > 0.95 * task.suppress.iou:
                return (
                    f"overlaps object {other + 1} by IoU {iou:.2f}, and NMS at {task.suppress.iou:g} keeps one of them"
                )
    return ""


def _iou(a: Tensor, b: Tensor) -> Tensor:
    from .. import boxes as box_ops

    return box_ops.pairwise_iou(a, b)


def _size(box: Tensor) -> str:
    return f"{float(box[2] - box[0]):.0f} x {float(box[3] - box[1]):.0f}"


def _ap(rows: _Gathered, names: Sequence[str], images: int) -> float | None:
    """COCO AP with as many detections an image as there are: the limit is a collision of its own, and listed."""
    truth = GroundTruth.build(
        range(images), names, [r[0] for r in rows.truth], [r[1] for r in rows.truth],
        np.array([r[2] for r in rows.truth]).reshape(-1, 4),
    )  # fmt: skip
    detections = DetectionTable.build(
        [r[0] for r in rows.detections], [r[1] for r in rows.detections],
        np.array([r[2] for r in rows.detections]).reshape(-1, 4), [r[3] for r in rows.detections],
    )  # fmt: skip
    return score_detections(truth, detections, "coco", max_dets=(1, 10, 10_000)).headline


__all__ = ["ImageError", "TaskCheck", "encode", "perfect"]
