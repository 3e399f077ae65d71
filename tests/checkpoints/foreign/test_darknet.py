"""Export to Darknet's files: the cfg matches the spec, or nothing is written."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveal.checkpoints.foreign.darknet import export_darknet, import_darknet
from foveal.config.overrides import override
from foveal.detectors.darknet import DarknetDetector
from foveal.errors import FovealError, UsageError
from foveal.parts.darknet.weights import read_weights_header
from foveal.parts.losses.yolo import YOLOBoxLoss
from foveal.parts.priors.cells import Cells
from foveal.parts.resizing import Letterbox, Stretch
from tests.detectors.test_darknet import V1, V2, V3

NAMES = ["cat", "dog", "cow"]


def there_and_back(spec: DarknetDetector, folder: Path, *, seen: int = 0) -> DarknetDetector:
    state = spec.build(NAMES).state_dict()
    files = export_darknet(spec, NAMES, state, folder / "x.weights", seen=seen)
    again, names, read = import_darknet(*files)
    assert names == tuple(NAMES) and all(torch.equal(state[key], value) for key, value in read.items())
    return again


@pytest.mark.parametrize("cfg", [V2, V3])
def test_other_anchors_and_another_size_are_written(cfg: str, tmp_path: Path) -> None:
    spec = DarknetDetector.from_cfg(cfg)
    larger = tuple(tuple((1.5 * w, 2 * h + 1 / 3) for w, h in level) for level in spec.cells.shapes)
    spec = replace(spec, cells=replace(spec.cells, shapes=larger), input=Letterbox(96, 128, (0.0,) * 3, (1.0,) * 3))
    again = there_and_back(spec, tmp_path)
    assert again.cells == spec.cells and again.input == spec.input


def test_one_anchor_of_two_layers(tmp_path: Path) -> None:
    """Each layer has its own anchor list, with the anchors of its mask first."""
    spec = DarknetDetector.from_cfg(V3.replace("mask=0,1", "mask=0,2"))
    assert len({shape for level in spec.cells.shapes for shape in level}) == 3  # anchor 2 is in both masks
    moved = tuple(tuple((w + 1 + i, h) for w, h in level) for i, level in enumerate(spec.cells.shapes))
    spec = replace(spec, cells=replace(spec.cells, shapes=moved))
    assert there_and_back(spec, tmp_path).cells == spec.cells


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("task.cls_loss=CrossEntropy(background=False)", "task.cls_loss=CrossEntropy"),
        ("task.quality=None", "task.quality=None"),
        ("task.coder=Delta()", "task.coder=Delta"),
        ("cells.scale_xy=(1.0, 1.1)", "cells=Cells"),
        ("input.mean=(.5, .5, .5)", "input.mean"),
    ],
)
def test_detectors_darknet_would_decode_differently_are_rejected(setting: str, words: str, tmp_path: Path) -> None:
    spec = override(DarknetDetector.from_cfg(V3), [setting])
    with pytest.raises(FovealError, match=words):
        export_darknet(spec, NAMES, spec.build(NAMES).state_dict(), tmp_path / "x.weights")
    assert not list(tmp_path.iterdir())


def test_seen_images_counter_continues(tmp_path: Path) -> None:
    """Weights with more than 12,800 seen images do not repeat the warm-up toward their anchor shapes."""
    for begun, later, pull in ((5_000, 1_000, 6_800), (0, 0, 12_800), (90_000, 64, 0)):
        spec = DarknetDetector.from_cfg(V2, seen=begun)
        folder = tmp_path / str(begun)
        again = there_and_back(spec, folder, seen=later)
        assert isinstance(again.task.box_loss, YOLOBoxLoss) and again.task.box_loss.warmup_images == pull
        assert read_weights_header(folder / "x.weights").seen == min(begun, 12_800) + later
        assert struct.unpack("<q", (folder / "x.weights").read_bytes()[12:20])[0] == min(begun, 12_800) + later


def test_input_without_a_size_uses_the_darknet_size() -> None:
    for cfg in (V1, V3):
        spec = replace(DarknetDetector.from_cfg(cfg), input=Stretch())
        assert spec.input == Stretch(spec.input.width, spec.input.height, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_connected_layers_report_the_expected_canvas() -> None:
    detector = DarknetDetector.from_cfg(V1).build(NAMES)
    with pytest.raises(UsageError, match=r"a connected layer expects 128 inputs, got 288\. .*without MultiScale"):
        detector.get_submodule("backbone")(torch.zeros(1, 3, 48, 48))


def test_number_of_anchors_must_match_the_boxes() -> None:
    spec = DarknetDetector.from_cfg(V3)
    for shapes in ((((1.0, 2.0),), ((3.0, 4.0),)), (((1.0, 2.0),) * 2,)):
        with pytest.raises(UsageError, match="shapes a cell, the cfg has 2 and 2 boxes"):
            replace(spec, cells=Cells(shapes)).build(NAMES)
