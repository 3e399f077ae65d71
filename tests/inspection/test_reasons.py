"""Every candidate has exactly one reason, and it is the true one: compared with slow loops over random cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal import presets
from foveal.assembly.trace import Selection, tracing
from foveal.boxes import array_iou
from foveal.data.records.dataset import Record
from foveal.inspection.reasons import NO_CANDIDATE, Fates, Reason, fates_of
from foveal.inspection.traced import TracedImage, TracedStage, trace_image
from foveal.inspection.verdicts import ObjectVerdict, verdicts_of
from foveal.parts.distance_nms import DistanceNMS
from foveal.parts.necks.ssd import Extras
from foveal.parts.postprocess import NMS, NoNMS, Select
from foveal.parts.resizing import Original
from foveal.types import Images, Predictions, Priors

MINIS = [n for n in presets.names() if n.endswith("_mini")]
WIDTH, HEIGHT, CLASSES = 96, 80, ("a", "b", "c")


def record(rng: np.random.Generator, objects: int) -> Record:
    corner = rng.random((objects, 2)) * (WIDTH - 20, HEIGHT - 20)
    boxes = np.concatenate([corner, np.minimum(corner + rng.random((objects, 2)) * 50 + 6, (WIDTH, HEIGHT))], 1)
    flags = rng.random((2, objects)) < 0.1
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    none = np.zeros(objects, bool)
    labels = rng.integers(0, len(CLASSES), objects)
    return Record("one", Path("one.png"), WIDTH, HEIGHT, boxes, labels, flags[0], flags[1], none, area)


def small(spec: Any) -> Any:
    """On images of 128 pixels, where the detector can."""
    deconvolution = (
        isinstance(getattr(spec, "neck", None), Extras) and spec.neck.deconv is not None
    )  # needs maps of more than one cell
    if isinstance(spec.input, Original) or deconvolution:
        return spec
    return replace(spec, input=spec.input.resized(128))


def traced(name: str, seed: int = 0, spec: Any = None, objects: int = 5) -> TracedImage:
    """A detector with random weights on a random image; the last layers are made loud, so that scores differ."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    detector = small(spec or presets.get(name)).build(CLASSES).eval()
    with torch.no_grad():
        for weights in detector.parameters():
            if weights.dim() > 1:
                weights.mul_(1.3)
    image = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    proposals = None
    if detector.source is not None:
        proposals = np.sort(rng.random((40, 2, 2)), 1).reshape(-1, 4).astype(np.float32) * ([WIDTH, HEIGHT] * 2)
    return trace_image(detector, image, record(rng, objects), proposals)


def check(stage: TracedStage) -> Fates:
    """Compares the fates of a stage with their definitions, one candidate at a time."""
    task, fates, kept = stage.task, stage.fates, stage.selection.kept
    select, (priors, classes) = task.select, fates.scores.shape
    is_candidate = fates.reasons != NO_CANDIDATE
    valid = stage.selection.priors.valid
    expected = priors if valid is None else int(valid.sum())
    assert is_candidate.sum() == expected * (1 if select.best_class else classes)
    assert sum(fates.count().values()) == is_candidate.sum()
    assert fates.box[fates.kept] == pytest.approx(np.asarray(kept.boxes[0][kept.valid[0]]), abs=1e-3) or (
        task.clip == "after"
    )
    assert fates.score[fates.kept].tolist() == kept.scores[0][kept.valid[0]].tolist()

    selected = np.zeros_like(is_candidate)
    selected[fates.prior, fates.label] = True
    assert (fates.reasons[fates.prior, fates.label] == fates.reason).all()
    below = is_candidate & ~selected
    low = np.float32(select.score)
    assert not (fates.scores[fates.reasons == Reason.SCORE] > low).any()
    level = np.repeat(np.arange(len(stage.selection.priors.counts)), stage.selection.priors.counts)
    for group in range(level.max() + 1):
        here = (level == group)[:, None] & is_candidate
        cut = fates.scores[here & below & (fates.reasons == Reason.PER_LEVEL)]
        if len(cut):
            assert select.per_level is not None
            assert (fates.scores[here] >= cut.max()).sum() > select.per_level
    for c in range(classes):
        cut = fates.scores[below[:, c] & (fates.reasons[:, c] == Reason.PER_CLASS), c]
        if len(cut):
            assert select.per_class is not None
            assert (fates.scores[is_candidate[:, c], c] >= cut.max()).sum() > select.per_class
    check_nms(stage, fates)
    return fates


def check_nms(stage: TracedStage, fates: Fates) -> None:
    """Greedy NMS as a loop: who removes whom, and who is beyond the limit."""
    rule = stage.task.suppress
    entered = np.flatnonzero(np.isin(fates.reason, (Reason.KEPT, Reason.NMS, Reason.TOP)))
    order = entered[np.argsort(-fates.score[entered], kind="stable")]
    group = np.zeros(len(fates.score), np.int64)
    if isinstance(rule, NMS | DistanceNMS) and rule.per != "all":
        group = fates.label if rule.per == "class" else fates.level
    iou = array_iou(fates.box[order], fates.box[order])
    if isinstance(rule, DistanceNMS):
        boxes = torch.from_numpy(fates.box[order]).double()
        iou = iou - np.asarray(rule.distance(boxes[:, None], boxes[None]))
    threshold = rule.iou if isinstance(rule, NMS | DistanceNMS) else np.inf
    left: list[int] = []
    for i, row in enumerate(order):
        able = (group[order[left]] == group[row]) & (iou[left, i] > threshold)
        by = left[int(able.argmax())] if able.any() else None
        if by is None:
            left.append(i)
            assert fates.reason[row] == (Reason.KEPT if len(left) <= rule.top else Reason.TOP)
            assert fates.by[row] == -1
        else:
            assert fates.reason[row] == Reason.NMS
            assert fates.by[row] == order[by]
            assert fates.overlap[row] == pytest.approx(iou[by, i])


@pytest.mark.parametrize("name", MINIS)
def test_every_candidate_has_the_reason_of_its_definition_and_every_object_one_verdict(name: str) -> None:
    one = traced(name)
    for stage in one.stages:
        check(stage)
    verdicts = verdicts_of(one)
    assert one.record is not None
    counted = ~(one.record.crowd | one.record.difficult | one.record.ignore)
    assert [v is not None for v in verdicts] == counted.tolist()
    assert all(v.verdict in ObjectVerdict and v.text for v in verdicts if v)


SELECTS = (
    Select(score=0.3, per_level=20, min_size=8.0),
    Select(score=0.0, per_level=50),
    Select(score=0.4, per_level=None, per_class=15),
    Select(score=0.45, per_level=30, best_class=True),
)
RULES = (NMS(0.3, top=10), NMS(0.5, per="level", top=500), NMS(0.4, per="all"), DistanceNMS(0.4), NoNMS(top=7))


@pytest.mark.parametrize(("select", "rule"), [(SELECTS[i % len(SELECTS)], RULES[i % len(RULES)]) for i in range(9)])
def test_reasons_under_other_settings(select: Select, rule: Any) -> None:
    spec: Any = presets.get("ssd_mini")
    spec = replace(spec, task=replace(spec.task, select=select, suppress=rule))
    one = traced("ssd_mini", seed=3, spec=spec)
    check(one.stages[0])


def test_scores_and_boxes_that_are_not_finite() -> None:
    task: Any = replace(presets.get("retinanet_mini").tasks["task"], select=Select(score=0.1, per_level=4))
    logits = torch.tensor([[[2.0], [torch.nan], [1.0], [-9.0]]])
    deltas = torch.zeros(1, 4, 4)
    deltas[0, 2, 0] = torch.nan
    priors = Priors(torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]), (4,))
    images = Images(
        torch.zeros(1, 3, 80, 80), torch.tensor([[80, 80]]), torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[80, 80]])
    )
    with tracing() as trace:
        task.detect(Predictions(logits, deltas), priors, images)
    fates = fates_of(task, trace.selections[0])
    assert fates.reasons[:, 0].tolist() == [Reason.KEPT, Reason.NOT_FINITE, Reason.NOT_FINITE, Reason.SCORE]


def test_off_it_records_nothing_and_on_it_changes_nothing() -> None:
    spec = presets.get("faster_rcnn_mini")
    torch.manual_seed(0)
    detector = spec.build(CLASSES).eval()
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    plain = detector.predict_arrays([image])[0]
    with tracing() as trace:
        seen = detector.predict_arrays([image])[0]
    assert len(trace.selections) == 2 and not trace.samplings
    detector.predict_arrays([image])
    assert len(trace.selections) == 2
    assert torch.equal(plain.boxes, seen.boxes) and torch.equal(plain.scores, seen.scores)


def test_a_suppression_that_names_no_rows_is_understood() -> None:
    one = traced("ssd_mini", seed=1).stages[0]
    unnamed: Selection = replace(one.selection, kept=replace(one.selection.kept, rows=None))
    assert fates_of(one.task, unnamed).kept.tolist() == one.fates.kept.tolist()
