"""How the objects of a set fit a detector: the numbers of ``foveal doctor --for``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..assembly.detector import Detector, Spec
from ..assembly.one_stage import OneStage
from ..assembly.proposers import FromRPN
from ..assembly.two_stage import TwoStage
from ..data.doctor.detector_fit import EXAMPLES, DetectorFit, FittedObject, LevelFit
from ..data.records.dataset import Dataset
from ..files.aliases import Floats
from ..parts.matching.bipartite import BipartiteThenIoU
from ..parts.matching.cells import ShapeMatcher
from ..parts.matching.iou import IoUMatcher
from ..parts.matching.matcher import Matcher
from ..parts.priors.base import PriorSet
from .anchor_advice import better_anchors
from .anchor_reach import Objects, anchor_grids, at_input, best_anchors, map_sizes

STATES = ("ok", "near", "out")
SHAPES = (0.5, 0.3)  # YOLO assigns every object its best anchor: what counts as reached, and as not, by shape alone


def object_fit(spec: Spec, dataset: Dataset, model: str) -> DetectorFit:
    """How the objects fit the input and the anchors of a detector. Crowds and ignored objects are left out.

    ``model``: what to call the detector. Raises :class:`UsageError` for a spec that cannot be built.
    """
    objects = at_input(spec, dataset)
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    order = np.argsort(sides.prod(1), kind="stable")[:EXAMPLES]
    texts = [f"{sides[i, 0]:.1f} x {sides[i, 1]:.1f} px at the input" for i in order]
    fit = DetectorFit(
        model=model,
        rule=f"{spec.input}".split(", mean=")[0].rstrip(")") + ")",
        split=dataset.split or "the set",
        sides=sides,
        tiniest=tuple(_example(dataset, objects, int(i), text) for i, text in zip(order, texts, strict=True)),
    )
    if not len(sides):
        return fit
    detector = shapes_only(spec, dataset.classes)
    priors, matcher = _anchors_of(detector)
    known = isinstance(matcher, IoUMatcher | BipartiteThenIoU | ShapeMatcher)
    if priors is None or matcher is None or not known or not isinstance(detector, OneStage | TwoStage):
        return replace(fit, reason=f"{type(spec).__name__} has no anchors that objects are compared with by overlap.")
    return _with_anchors(fit, spec, dataset, objects, detector, priors, matcher)


def _with_anchors(
    fit: DetectorFit,
    spec: Spec,
    dataset: Dataset,
    objects: Objects,
    detector: OneStage | TwoStage,
    priors: PriorSet,
    matcher: Matcher,
) -> DetectorFit:
    """``fit`` with what the anchors reach."""
    maps = {canvas: map_sizes(detector, canvas) for canvas in dict.fromkeys(objects.canvases)}
    strides = [int(s) for s in detector.strides]
    found, best = best_anchors(priors, objects, maps, strides)  # (N, levels), (N, 4)
    iou = found.max(1)
    positive, negative, learned = _rule(matcher)
    grids = anchor_grids(priors, maps[objects.canvases[0]], objects.canvases[0], strides)
    state = np.where(iou >= positive, 0, np.where(iou >= negative, 1, 2))
    names = dataset.classes
    counts = np.stack([np.bincount(objects.labels[state >= k], minlength=len(names)) for k in (0, 1, 2)], 1)
    levels = [
        LevelFit(
            stride=max(grid.step),
            anchors=len(grid.cell),
            smallest=float(_areas(grid.cell).min()),
            largest=float(_areas(grid.cell).max()),
            best=int((found.argmax(1) == k).sum()),
            reached=int((found[:, k] >= positive).sum()),
        )
        for k, grid in enumerate(grids)
    ]
    order = np.argsort(iou, kind="stable")
    shown = [*order[: EXAMPLES - 1], order[-1]] if len(order) > EXAMPLES else order
    return replace(
        fit,
        iou=iou,
        positive=positive,
        negative=negative,
        learned=learned,
        levels=tuple(levels),
        shapes=np.concatenate([grid.cell[:, 2:] - grid.cell[:, :2] for grid in grids]),
        classes=tuple((names[c], n, a - b, b) for c, (n, a, b) in enumerate(counts.tolist()) if n),
        examples=tuple(
            _example(dataset, objects, int(i), f"best anchor: IoU {iou[i]:.2f}", best[i], STATES[state[i]])
            for i in shown
        ),
        advice=better_anchors(spec, dataset, objects, maps, strides, iou, positive),
    )  # fmt: skip


def _example(
    dataset: Dataset, objects: Objects, i: int, text: str, anchor: Floats | None = None, state: str = ""
) -> FittedObject:
    record = dataset.records[objects.record[i]]
    frame = objects.frames[objects.record[i]]
    box = record.boxes[objects.place[i]]
    name = (
        f"{dataset.classes[objects.labels[i]]}, {box[2] - box[0]:.0f} x {box[3] - box[1]:.0f} px in {record.path.name}"
    )
    at = None if anchor is None else tuple(((anchor - np.tile(frame[2:], 2)) / np.tile(frame[:2], 2)).tolist())
    return FittedObject(str(record.path), name, text, tuple(box.tolist()), at, state)


# ------------------------------------------------------------------------------------------- the anchors
def shapes_only(spec: Spec, classes: Sequence[str]) -> Detector:
    """The detector without numbers, which computes the shapes of its outputs alone."""
    with torch.device("meta"):
        return spec.build(classes).eval()


def _anchors_of(detector: Detector) -> tuple[PriorSet | None, Matcher | None]:
    """The priors on a grid that objects are assigned to, and by which rule."""
    if isinstance(detector, OneStage):
        return detector.priors, detector.task.matcher
    if isinstance(detector, TwoStage) and isinstance(detector.proposer, FromRPN):
        return detector.proposer.anchors, detector.proposer.task.matcher
    return None, None


def _rule(matcher: Matcher) -> tuple[float, float, str]:
    """IoU from which an anchor learns an object, IoU below which none does (or by force alone), and the rule."""
    if isinstance(matcher, IoUMatcher):
        between = (
            "below that, an object learns from its best anchor alone."
            if matcher.low_quality
            else "below that, an object is not learned."
        )
        floor = max(matcher.negative, matcher.low_quality_floor) if matcher.low_quality else matcher.positive
        return matcher.positive, floor, f"An anchor learns an object from IoU {matcher.positive:g} on; {between}"
    if isinstance(matcher, BipartiteThenIoU):
        text = (
            f"An anchor learns an object from IoU {matcher.positive:g} on; below that, an object gets its best anchor."
        )
        return matcher.positive, matcher.negative, text
    text = (
        "Every object is assigned the anchor of the most similar shape, however different; here the shapes are judged."
    )
    return *SHAPES, text


def _areas(cell: Floats) -> Floats:
    root: Floats = np.sqrt((cell[:, 2:] - cell[:, :2]).prod(1))
    return root
