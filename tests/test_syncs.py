"""A training step never waits for the device: RetinaNet, FCOS and SSD not at all, Faster R-CNN in NMS alone.

Counted by a dispatch mode over forward and backward; the matcher runs in its accelerator form, because on a processor
it reads memory directly.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from foveal import presets
from foveal.parts import bipartite, matchers
from foveal.types import Images, Target, Targets

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from common import OpCount


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("retinanet_mini", set()),
        ("fcos_mini", set()),
        ("faster_rcnn_mini", {"nms"}),
        ("faster_rcnn_mini_focal_rpn", {"nms"}),
        ("rpn_mini", set()),
        ("ssd_mini", set()),
        ("dssd_mini", set()),
    ],
)
def test_host_syncs_of_a_training_step(name: str, allowed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matchers, "match_on_host", matchers.match_on_device)
    monkeypatch.setattr(bipartite, "_on_host", lambda tensor: False)
    detector = presets.get(name).build(["a", "b"])
    size = torch.tensor([[96, 96]] * 2)
    pixels = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    images = Images(pixels, size, torch.tensor([[1.0, 1, 0, 0]] * 2), size)
    target = Target(torch.tensor([[10.0, 10, 70, 60], [30, 20, 60, 90]]), torch.tensor([0, 1]))
    targets = Targets.pad([target, target])
    detector(images, targets)  # anchors are made once, and kept
    with OpCount() as count:
        losses = detector(images, targets)
        torch.stack(list(losses.values())).sum().backward()
    assert set(count.syncs) <= allowed, count.syncs
    assert ("nms" in count.syncs) == bool(allowed)
