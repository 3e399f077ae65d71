"""Objects at the input of a detector: the best anchor of each is that of a slow search over all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal import presets
from foveal.assembly.one_stage import OneStage
from foveal.assembly.proposers import FromRPN
from foveal.assembly.two_stage import TwoStage
from foveal.boxes import pairwise_iou
from foveal.checks.anchor_reach import at_input, best_anchors, map_sizes
from foveal.checks.object_fit import object_fit, shapes_only
from foveal.config.overrides import override
from foveal.data.records.dataset import Dataset, Record
from foveal.parts.priors.anchors import Anchors

MINIS = [name for name in presets.names() if name.endswith("_mini")]
CLASSES = ("a", "b")


def dataset(objects: int = 12, images: int = 3, small: float = 1.0) -> Dataset:
    rng, records = np.random.default_rng(0), []
    for k in range(images):
        width, height = (150, 110) if k % 2 else (120, 160)
        corner = rng.random((objects, 2)) * (width - 20, height - 20)
        side = np.exp(rng.random((objects, 2)) * 4 + 1) * small
        boxes = np.concatenate([corner, np.minimum(corner + side, (width, height))], 1)
        none = np.zeros(objects, bool)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        labels = rng.integers(0, 2, objects)
        records.append(Record(k, Path(f"{k}.png"), width, height, boxes, labels, none, none, none, area))
    return Dataset(CLASSES, records)


def smaller(name: str) -> Any:
    spec = presets.get(name)
    return replace(spec, input=spec.input.resized(128)) if "dssd" not in name else spec  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["retinanet_mini", "faster_rcnn_mini", "ssd_mini", "faster_rcnn_mini inside"])
def test_the_best_anchor_is_that_of_a_slow_search(name: str) -> None:
    spec, data = smaller(name.split()[0]), dataset()
    if "inside" in name:
        spec = override(spec, ["anchors=Anchors(sizes=((16,),(32,),(64,),(128,)), inside=True, rounding='corners')"])
    objects = at_input(spec, data)
    detector = spec.build(CLASSES).eval()
    assert isinstance(detector, OneStage | TwoStage)
    if isinstance(detector, TwoStage):
        assert isinstance(detector.proposer, FromRPN)
        priors: Any = detector.proposer.anchors
    else:
        priors = detector.priors
    shapes: Any = shapes_only(spec, CLASSES)
    maps = {canvas: map_sizes(shapes, canvas) for canvas in objects.canvases}
    found, best = best_anchors(priors, objects, maps, [int(s) for s in detector.strides])
    for k, record in enumerate(data.records):
        images = detector.prepare([np.zeros((record.height, record.width, 3), np.uint8)])
        with torch.no_grad():
            all_priors = detector.outputs(images).priors
        rows = objects.record == k
        boxes = torch.from_numpy(objects.boxes[rows])
        mine = images.to_network(torch.from_numpy(record.boxes)[None])[0]
        torch.testing.assert_close(boxes, mine.double(), atol=1e-4, rtol=0)
        iou = pairwise_iou(boxes, all_priors.boxes.double())
        if all_priors.valid is not None:
            iou = torch.where(all_priors.valid[0], iou, 0.0)
        assert isinstance(priors, Anchors) == ("ssd" not in name)
        by_level = torch.stack([part.max(1).values for part in iou.split(list(all_priors.counts), 1)], 1)
        np.testing.assert_allclose(found[rows], by_level.numpy(), atol=1e-6)
        own = pairwise_iou(boxes, torch.from_numpy(best[rows])).diagonal()
        np.testing.assert_allclose(own.numpy(), by_level.max(1).values.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", MINIS)
def test_every_small_preset_is_judged_or_says_why_not(name: str) -> None:
    fit = object_fit(presets.get(name), dataset(), name)
    assert len(fit.sides) == 36 and len(fit.tiniest) == 8
    assert (fit.iou is None) == (name in ("fcos_mini", "detr_mini", "yolo_v1_mini", "rcnn_mini", "fast_rcnn_mini",
                                          "spp_net_mini"))  # fmt: skip
    if fit.iou is None:
        assert "has no anchors" in fit.reason and "has no anchors" in fit.text()
    else:
        assert sum(level.best for level in fit.levels) == 36
        assert sum(n for _, n, _, _ in fit.classes) == 36
        assert fit.recall(0) == 1 and fit.recall(0.5) == (fit.iou >= 0.5).mean()


@pytest.mark.parametrize("name", ["retinanet_mini", "faster_rcnn_mini", "yolo_v3_mini", "ssd_mini"])
def test_the_advice_can_be_pasted_and_reaches_what_it_says(name: str) -> None:
    """Objects of an eighth of the size that the anchors are made for."""
    data = dataset(objects=40, small=0.12)
    spec = presets.get(name)
    fit = object_fit(spec, data, name)
    assert fit.iou is not None and fit.advice is not None and fit.tiny > 0
    again = object_fit(override(spec, [fit.advice.override]), data, name)
    assert again.iou is not None
    assert again.iou.mean() == pytest.approx(fit.advice.mean) and fit.advice.mean > fit.iou.mean() + 0.01
    assert int((again.iou >= again.positive).sum()) == fit.advice.reached


def test_a_set_without_objects() -> None:
    fit = object_fit(presets.get("retinanet_mini"), dataset(objects=0), "retinanet_mini")
    assert fit.iou is None and fit.text().count("\n") == 0 and "0 objects" in fit.text()
    assert object_fit(presets.get("retinanet_mini"), Dataset(CLASSES, []), "retinanet_mini").tiny == 0
