"""The verdict on every object: total, exclusive, and right for planted faults.

The faults are planted around a detector whose head is an oracle: real priors, matcher, coder, selection and NMS, and
the outputs that a perfect head would have, as in ``foveal check``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from foveal import presets
from foveal.assembly.one_stage import OneStage
from foveal.checks.assignment import perfect
from foveal.data.records.dataset import Dataset, Record
from foveal.evaluation import GroundTruth
from foveal.evaluation.coco import ALL, Coco, score_coco
from foveal.evaluation.tables import DetectionTable
from foveal.inspection.funnel import Funnel, miss_funnel
from foveal.inspection.traced import record_targets, trace_image
from foveal.inspection.verdicts import ObjectVerdict, verdicts_of
from foveal.parts.coders import Delta
from foveal.parts.heads.dense import DenseHead
from foveal.parts.matching.iou import IoUMatcher
from foveal.parts.postprocess import NMS, Select
from foveal.parts.priors.anchors import PyramidAnchors
from foveal.parts.resizing import Letterbox, Resize
from foveal.parts.samplers import Balanced
from foveal.types import Images, Predictions
from tests.inspection.test_reasons import CLASSES, MINIS, traced

BASE: Any = presets.get("retinanet_mini")
SPEC: Any = replace(
    BASE, input=Resize(128, 300), task=replace(BASE.task, matcher=IoUMatcher(0.5, 0.4, low_quality_floor=0.4))
)
SIZES = ((200, 150), (160, 160), (150, 220), (260, 140), (180, 130), (140, 210))  # width, height of the images


class Oracle(DenseHead):
    """Knows the objects of every image by its size, and predicts them with the task that it was trained with."""

    def __init__(self, detector: OneStage, records: Sequence[Record], shift: int = 0, task: Any = None) -> None:
        super().__init__()
        self.known = {(r.height, r.width): r for r in records}
        self.rule: Any = None  # the true resize rule, where the detector's is wrong
        self.detector, self.shift, self.task = [detector], shift, task or detector.task  # a list: no submodule

    def layers(self, features: list[Tensor], images: Images) -> list[Predictions]:
        detector = self.detector[0]
        height, width = images.original[0].tolist()
        if self.rule is not None:
            size = (height, width)
            images = replace(images, frame=self.rule.frames([size], [self.rule.placement(*size)], images.canvas)[1])
        targets = record_targets(detector, self.known[height, width], images)
        targets = replace(targets, labels=(targets.labels + self.shift) % len(CLASSES))
        priors = detector.priors(images, features, detector.strides)
        return [perfect(self.task, priors, targets, len(CLASSES))[0]]


def dataset(folder: Path, seed: int = 0, scale: int = 1) -> Dataset:
    """Six images of three objects each, which do not overlap."""
    rng, records = np.random.default_rng(seed), []
    for number, (width, height) in enumerate((scale * w, scale * h) for w, h in SIZES):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        third = width / 3
        left = third * np.arange(3) + rng.random(3) * third / 4
        top = rng.random(3) * height / 3
        boxes = np.stack([left, top, left + third * 0.6, top + third * (0.5 + 0.2 * rng.random(3))], 1)
        none = np.zeros(3, bool)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        labels = rng.integers(0, len(CLASSES), 3)
        records.append(Record(str(number), path, width, height, boxes, labels, none, none, none, area))
    return Dataset(CLASSES, records, path=folder)


def oracle(data: Dataset, spec: Any = SPEC, shift: int = 0, task: Any = None) -> OneStage:
    torch.manual_seed(0)
    detector: OneStage = spec.build(CLASSES).eval()
    detector.head = Oracle(detector, data.records, shift, task)
    return detector


def tasked(**changes: Any) -> Any:
    return replace(SPEC, task=replace(SPEC.task, **changes))


def boxes_changed(data: Dataset, change: Callable[[Record], Any]) -> Dataset:
    return replace(data, records=[replace(r, boxes=np.asarray(change(r))) for r in data.records])


def found_by_coco(funnel: Funnel, detector: OneStage, data: Dataset) -> Fraction:
    detections = [trace_image(detector, np.asarray(Image.open(r.path)), None).detections for r in data.records]
    scored = score_coco(GroundTruth.of(data), DetectionTable.of(detections), Coco())
    for c in range(len(CLASSES)):
        counts = funnel.counts[c]
        assert not counts.sum() or scored.recall[0, c, ALL, -1] == counts[0] / counts.sum()
    return Fraction(int(scored.found.sum()), len(scored.found))


def test_without_a_fault_every_object_is_found(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    detector = oracle(data)
    funnel = miss_funnel(detector, data)
    assert funnel.count(ObjectVerdict.FOUND) == funnel.objects == 18
    assert funnel.recall == 1.0 and found_by_coco(funnel, detector, data) == 1
    assert sum(funnel.to_dict()["lost"].values()) == 0


FAULTS: dict[str, tuple[Any, ObjectVerdict]] = {
    "no anchor fits": (replace(SPEC, anchors=PyramidAnchors(scale=40.0, octaves=1)), ObjectVerdict.NO_PRIOR),
    "limit of detections": (tasked(suppress=NMS(0.5, top=1)), ObjectVerdict.LIMIT),
    "limit of a level": (tasked(select=Select(score=0.01, per_level=1)), ObjectVerdict.LIMIT),
    "limit of size": (tasked(select=Select(score=0.01, per_level=1000, min_size=500.0)), ObjectVerdict.LIMIT),
    "NMS of all classes by any overlap": (tasked(suppress=NMS(0.0, per="all")), ObjectVerdict.NMS),
    "score cut": (tasked(select=Select(score=0.999999, per_level=1000)), ObjectVerdict.SCORE),
    "sampler too small": (
        tasked(select=Select(score=0.999999, per_level=1000), sampler=Balanced(1, 1.0)),
        ObjectVerdict.NOT_SAMPLED,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_the_verdict(fault: str, tmp_path: Path) -> None:
    spec, verdict = FAULTS[fault]
    data = dataset(tmp_path)
    if verdict == ObjectVerdict.NMS:  # neighbors that touch
        data = boxes_changed(data, lambda r: r.boxes + np.array([0, 0, r.width / 6, 0]))
    detector = oracle(data, spec)
    funnel = miss_funnel(detector, data)
    lost = {v: funnel.count(v) for v in ObjectVerdict if v != ObjectVerdict.FOUND and funnel.count(v)}
    assert lost and max(lost, key=lambda v: lost[v]) == verdict
    assert set(lost) <= {verdict, ObjectVerdict.SCORE if verdict == ObjectVerdict.NOT_SAMPLED else verdict}
    recall = found_by_coco(funnel, detector, data)
    assert sum(Fraction(n, funnel.objects) for n in lost.values()) == 1 - recall


def test_class_off_by_one(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    funnel = miss_funnel(oracle(data, shift=1), data)
    assert funnel.count(ObjectVerdict.CLASS) == funnel.objects
    assert any("labels are shifted by one" in note for note in funnel.notes)


def test_coder_variance_missing(tmp_path: Path) -> None:
    """Trained with variances .1, .1, .2, .2, and decoded without."""
    data = dataset(tmp_path)
    trained = replace(SPEC.task, coder=Delta((10, 10, 5, 5)))
    funnel = miss_funnel(oracle(data, SPEC, task=trained), data)
    assert funnel.count(ObjectVerdict.PLACE) >= 0.8 * (funnel.objects - funnel.count(ObjectVerdict.FOUND)) > 0


FRAMES: dict[str, Callable[[Record], Any]] = {
    "boxes of the resized image": lambda r: r.boxes * (128 / min(r.width, r.height) / 2),
    "x and y swapped": lambda r: r.boxes[:, [1, 0, 3, 2]],
}


@pytest.mark.parametrize("frame", FRAMES)
def test_boxes_in_another_frame_are_named(frame: str, tmp_path: Path) -> None:
    data = dataset(tmp_path)
    detector = oracle(data)
    funnel = miss_funnel(detector, boxes_changed(data, FRAMES[frame]))
    assert funnel.count(ObjectVerdict.FOUND) < 0.3 * funnel.objects
    assert {"boxes of the resized image": "resized image", "x and y swapped": "swapped"}[frame] in funnel.notes[0]


@dataclass(frozen=True)
class NotUndone(Letterbox):
    """A letterbox whose boxes are taken for boxes of the original image."""

    def frames(self, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        sizes, frame, original = super().frames(*arguments)
        return sizes, torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand_as(frame), original


def test_letterbox_not_undone_is_named(tmp_path: Path) -> None:
    data = dataset(tmp_path, scale=2)
    detector = oracle(data, replace(SPEC, input=NotUndone(320, 320)))
    detector.head.rule = Letterbox(320, 320)  # type: ignore[assignment]
    funnel = miss_funnel(detector, data)
    assert funnel.count(ObjectVerdict.FOUND) < 0.3 * funnel.objects
    assert "letterbox of 320 x 320" in funnel.notes[0]


def test_two_objects_on_the_same_priors(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    one = data.records[0]
    twin = replace(
        one,
        boxes=np.repeat(one.boxes[:1], 2, 0),
        labels=np.array([0, 1]),
        area=one.area[:2],
        crowd=np.zeros(2, bool),
        difficult=np.zeros(2, bool),
        ignore=np.zeros(2, bool),
    )
    data = replace(data, records=[twin])
    funnel = miss_funnel(oracle(data), data)
    assert (funnel.count(ObjectVerdict.FOUND), funnel.count(ObjectVerdict.NOT_MATCHED)) == (1, 1)


@pytest.mark.parametrize("name", [n for n in MINIS if n != "rpn_mini"])
@pytest.mark.parametrize("seed", [1])
def test_verdicts_are_total_and_their_sums_exact(name: str, seed: int) -> None:
    """Random weights and objects; found is what COCO's protocol says."""
    one = traced(name, seed=seed, objects=8)
    verdicts = verdicts_of(one)
    record = one.record
    assert record is not None
    truth = GroundTruth.of(Dataset(CLASSES, [record]))
    scored = score_coco(truth, DetectionTable.of([one.detections]), Coco())
    counted = ~(truth.crowd | truth.difficult)
    counts = Counter(v.verdict for v in verdicts if v is not None)
    assert counts.total() == counted.sum()
    assert counts[ObjectVerdict.FOUND] == (scored.found & counted).sum()
