"""Host syncs of a training iteration: none for RetinaNet, FCOS and SSD, only NMS for Faster R-CNN.

Counted by a dispatch mode over forward and backward; the matcher uses its GPU implementation, because on a CPU
it reads memory directly.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.masks.rle import Masks
from foveal.parts import postprocess as suppress
from foveal.parts.heads import transformer
from foveal.parts.matching import bipartite, points
from foveal.parts.matching import matcher as matchers
from foveal.parts.resizing import Stretch
from foveal.types import Images, Target, Targets

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from common import OpCount


def on_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matchers, "match_on_cpu", matchers.match_on_device)
    monkeypatch.setattr(bipartite, "on_cpu", lambda tensor: False)
    monkeypatch.setattr(points, "grids_of", lambda *_: None)
    monkeypatch.setattr(suppress, "suppress_on_cpu", suppress.suppress_on_device)
    monkeypatch.setattr(transformer, "_whole", lambda images: False)


def built(name: str) -> tuple[Detector, Images]:
    spec = presets.get(name)
    height, width = spec.input.canvas(()) if isinstance(spec.input, Stretch) else (96, 96)
    size = torch.tensor([[height, width]] * 2)
    pixels = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    detector, images = spec.build(["a", "b"]), Images(pixels, size, torch.tensor([[1.0, 1, 0, 0]] * 2), size)
    if detector.source is not None:
        images = images.with_proposals([torch.rand(40, 2, 2).sort(1).values.flatten(1) * 96] * 2)
    return detector, images


@pytest.mark.parametrize("name", [n for n in presets.names() if n.endswith("_mini")])
def test_host_syncs_of_batch_inference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most three, whatever the number of images."""
    on_device(monkeypatch)
    detector, images = built(name)
    detector.eval()
    with torch.no_grad():
        detector(images)
        with OpCount() as count:
            detector(images)
    assert sum(count.syncs.values()) <= 3, count.syncs


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("retinanet_mini", set()),
        ("fcos_mini", set()),
        ("faster_rcnn_mini", {"nms"}),
        ("faster_rcnn_mini_focal_rpn", {"nms"}),
        ("fast_rcnn_mini", set()),
        ("mask_rcnn_mini", {"nms"}),
        ("rpn_mini", set()),
        ("ssd_mini", set()),
        ("dssd_mini", set()),
        ("yolo_v1_mini", set()),
        ("yolo_v2_mini", set()),
        ("yolo_v3_mini", set()),
        ("detr_mini", set()),  # its one transfer is a copy, which is not counted here: see test_detr
    ],
)
def test_host_syncs_of_a_training_step(name: str, allowed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    on_device(monkeypatch)
    detector, images = built(name)
    masks = Masks.of_dense(torch.ones(2, 96, 96))
    target = Target(torch.tensor([[10.0, 10, 70, 60], [30, 20, 60, 90]]), torch.tensor([0, 1]), masks=masks)
    targets = Targets.pad([target, target])
    detector(images, targets)  # anchors are computed once and cached
    with OpCount() as count:
        losses = detector(images, targets)
        torch.stack(list(losses.values())).sum().backward()
    assert set(count.syncs) <= allowed, count.syncs
    assert ("nms" in count.syncs) == bool(allowed)
