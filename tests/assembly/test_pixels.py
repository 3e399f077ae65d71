"""Normalization belongs to the weights: another resize rule keeps the mean and std they were trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import foveal
from foveal import presets
from foveal.assembly.detector import Detector
from foveal.checkpoints.content import Content
from foveal.checkpoints.folder import save
from foveal.checkpoints.initial import initial_pixels, load_weights, normalization_mismatch
from foveal.config.overrides import override
from foveal.config.parse import parse_spec
from foveal.config.show import show
from foveal.detectors.darknet import DarknetDetector
from foveal.parts.resizing import (
    BLACK,
    CAFFE_MEAN,
    IMAGENET_MEAN,
    IMAGENET_PIXELS,
    IMAGENET_STD,
    LEVELS,
    WHITE,
    Input,
)

WHITE_IMAGE = np.full((60, 80, 3), 255, np.uint8)

# What a white pixel becomes, (1 - mean) / std of red: by hand.
DARKNET, IMAGENET, CAFFE = 1.0, (1 - 0.485) / 0.229, 255 - 123

CFG = """[net]
width=64
height=64
channels=3
[convolutional]
filters=8
size=3
stride=8
pad=1
activation=leaky
[convolutional]
filters=21
size=1
stride=1
activation=linear
[yolo]
mask=0,1,2
anchors=4,4, 8,8, 16,16
classes=2
num=3
"""


def rule(preset: str, *items: str) -> Input:
    found: Input = override(presets.get(preset), items).input
    return found


@pytest.mark.parametrize(
    ("preset", "item", "white"),
    [
        ("yolo_v3", "input=Letterbox(320, 320)", DARKNET),
        ("yolo_v3", "input=Stretch(width=320, height=320)", DARKNET),
        ("yolo_v3", "input=Stretch()", DARKNET),
        ("yolo_v3", "input=Resize(320, 640)", DARKNET),
        ("yolo_v3", "input=Letterbox(320, 320, gray=0.3)", DARKNET),
        ("ssd300_vgg16_paper", "input=Stretch(512, 512)", CAFFE),
        ("ssd300_vgg16_paper", "input=Letterbox(512, 512)", CAFFE),
        ("rcnn_alexnet", "input=Original()", CAFFE),
        ("retinanet_mini", "input=Stretch(320, 320)", IMAGENET),
    ],
)
def test_a_new_resize_rule_keeps_mean_and_std(preset: str, item: str, white: float) -> None:
    batch = rule(preset, item).batch([WHITE_IMAGE])
    middle = batch.pixels[0, 0, batch.pixels.shape[2] // 2, 30]
    assert float(middle) == pytest.approx(white, rel=1e-4)


@pytest.mark.parametrize(
    ("item", "mean", "std"),
    [
        (f"input=Letterbox(320, 320, {IMAGENET_MEAN}, {IMAGENET_STD})", IMAGENET_MEAN, IMAGENET_STD),
        (f"input=Letterbox(320, 320, mean={CAFFE_MEAN})", CAFFE_MEAN, WHITE),
        (f"input=Letterbox(320, 320, std={LEVELS})", BLACK, LEVELS),
        (f"input=Stretch(mean={IMAGENET_MEAN})", IMAGENET_MEAN, WHITE),  # the canvas is unchanged
        (f"input=Resize(320, 640, std={IMAGENET_STD})", BLACK, IMAGENET_STD),
    ],
)
def test_an_explicit_mean_or_std_wins(item: str, mean: Any, std: Any) -> None:
    """Also if it equals the default of the class; the other one is unchanged."""
    found = rule("yolo_v3", item)
    assert (found.mean, found.std) == (mean, std)


def test_later_overrides_see_the_preserved_values() -> None:
    found = rule("yolo_v3", "input=Letterbox(320, 320)", "input.std=(0.5,0.5,0.5)")
    assert (found.mean, found.std) == (BLACK, (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a Darknet detector, with weights whose scores depend on the pixels."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    spec = DarknetDetector.from_cfg(CFG)
    state = spec.build(["a", "b"]).state_dict()
    described = {"spec": show(spec), "classes": ["a", "b"], "versions": {}}
    save(folder / "checkpoints", 1, Content(state, {}, {}, {"step": 1, "batch_size": 1}, described))
    return folder


def test_loaded_weights_keep_their_normalization(run: Path) -> None:
    """Equal detections for an image that fills both canvases; different ones with the ImageNet normalization."""
    image = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)

    def scores(*items: str) -> torch.Tensor:
        detector: Detector = foveal.load(run, precision="32", device="cpu", overrides=["task.select.score=0.0", *items])
        assert detector.prepare([image]).pixels.shape == (1, 3, 64, 64)
        found: torch.Tensor = detector.predict_arrays([image])[0].scores
        return found

    plain = scores()
    assert torch.equal(scores("input=Letterbox(64, 64)"), plain)
    assert torch.equal(scores("input=Stretch(64, 64)"), plain)
    other = scores(f"input=Letterbox(64, 64, {IMAGENET_MEAN}, {IMAGENET_STD})")
    assert other.shape != plain.shape or (other - plain).abs().max() > 1e-3


# ------------------------------------------------------------------------------------- pixels follow the backbone
HALF = (0.5, 0.5, 0.5)
TIMM_LITE = "backbone=Timm('tf_efficientnet_lite0', weights='imagenet')"


@pytest.mark.parametrize(
    ("items", "pixels"),
    [
        ([], IMAGENET_PIXELS),
        ([TIMM_LITE], (HALF, HALF)),
        ([TIMM_LITE, f"input.mean={IMAGENET_MEAN}"], (IMAGENET_MEAN, HALF)),
        ([TIMM_LITE, "input=Stretch(320, 320)"], (HALF, HALF)),
        ([f"input.mean={BLACK}", TIMM_LITE, f"input.std={WHITE}"], (BLACK, WHITE)),
        (["backbone=Timm('tf_efficientnet_lite0')"], IMAGENET_PIXELS),  # random weights
        (["backbone=Torchvision('efficientnet_v2_l', weights='x.pth')"], (HALF, HALF)),
        (["backbone=Torchvision('vgg16', weights='vgg16_features')"], (CAFFE_MEAN, LEVELS)),
        (["backbone=Darknet('darknet19', weights='x.weights')"], (BLACK, WHITE)),
        (["backbone=ImagePyramid(Darknet('darknet19', weights='x.weights'))"], (BLACK, WHITE)),
        (["backbone=CaffeNet(weights='x.pth')"], (CAFFE_MEAN, LEVELS)),
    ],
)
def test_unset_pixels_are_those_of_the_backbones_weights(items: list[str], pixels: Any) -> None:
    if "Timm" in str(items):
        pytest.importorskip("timm", reason="timm is not installed")
    spec = override(presets.retinanet_mini, items)
    explicit = spec.with_pixels()
    assert (explicit.input.mean, explicit.input.std) == pixels == explicit.input.pixels
    assert explicit.with_pixels((WHITE, BLACK)) is explicit
    assert parse_spec(show(explicit)) == explicit


def test_a_detector_has_numbers() -> None:
    spec = override(presets.retinanet_mini, ["backbone=Darknet('darknet19', weights='x.weights')"])
    detector = spec.build(["a"])
    assert (detector.spec.input.mean, detector.spec.input.std) == (BLACK, WHITE)
    white = detector.prepare([WHITE_IMAGE]).pixels
    assert float(white[0, 0, white.shape[2] // 2, 30]) == pytest.approx(DARKNET)


@pytest.mark.parametrize("name", presets.names())
def test_presets_keep_their_numbers(name: str) -> None:
    """A preset with weights has the pixels of those; without, ImageNet's unless it says otherwise."""
    spec = presets.get(name)
    unset = None in (spec.input.mean, spec.input.std)
    assert spec.with_pixels().input.pixels == ((unset and spec.pixels) or spec.input.pixels)
    assert normalization_mismatch(spec) is None


def test_weights_given_to_a_run_decide(run: Path, tmp_path: Path) -> None:
    """--weights: a classification network's pixels, those of a run, or the network's where nothing is known."""
    torch.save(torchvision.models.squeezenet1_0().state_dict(), tmp_path / "s.pth")
    spec = override(presets.retinanet_mini, ["backbone=Torchvision('squeezenet1_0', frozen_stages=0)"])
    assert initial_pixels(spec, None) is None
    assert initial_pixels(spec, tmp_path / "s.pth") == IMAGENET_PIXELS
    assert initial_pixels(spec, run) == (BLACK, WHITE)
    assert initial_pixels(spec.with_pixels(), run) is None
    assert initial_pixels(spec, "nowhere") == IMAGENET_PIXELS  # refused when it is loaded
    detector = DarknetDetector.from_cfg(CFG).build(["a", "b"])
    assert not load_weights(detector, run).notes
    other = override(detector.spec, [f"input.mean={HALF}"]).build(["a", "b"])
    (note,) = load_weights(other, run).notes
    assert "trained on pixels with another mean and std; set input.mean=(0.0,0.0,0.0) input.std=(1.0,1.0,1.0)" in note


def test_a_resumed_run_keeps_its_numbers() -> None:
    """Also where an earlier version stored others for unset ones."""
    spec = override(presets.retinanet_mini, ["backbone=Darknet('darknet19', weights='x.weights')"])
    assert initial_pixels(spec, None) == (BLACK, WHITE)
    stored = Content({}, {}, {}, {}, {"spec": show(spec.with_pixels((HALF, HALF))), "classes": ["a"]})
    assert initial_pixels(spec, None, stored) == (HALF, HALF)
