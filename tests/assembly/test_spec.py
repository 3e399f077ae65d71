"""The properties of a spec, and that no code inspects its fields instead."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import foveal
from foveal import presets
from foveal.assembly.detector import Spec
from foveal.parts.backbones.base import BackboneSpec
from foveal.parts.backbones.caffe import CaffeNet
from foveal.parts.backbones.darknet import Darknet
from foveal.parts.backbones.image_pyramid import ImagePyramid
from foveal.parts.backbones.torchvision import Torchvision
from foveal.parts.resizing import CAFFE_PIXELS, IMAGENET_PIXELS, UNIT_PIXELS

PACKAGE = Path(foveal.__file__).resolve().parent

# Calls of getattr, hasattr, setattr with an attribute's name as text: module -> reason. All others ask the spec itself.
EXCEPTIONS = {
    "cli/main.py": "a stream of the process may lack reconfigure",
    "config/table.py": "a class of somebody else may lack __module__ or be no dataclass",
    "config/fields.py": "__name__ of a typing construct",
    "data/images/load.py": "any file-like object, an OSError's text",
    "data/images/modes.py": "PIL's TIFF images alone have tags",
    "evaluation/tables.py": "detections of somebody else may have masks",
    "files/reading.py": "what the operating system says of a file or an error",
    "parts/backbones/timm.py": "timm's networks declare their layout or not",
    "parts/backbones/torchvision.py": "torchvision's modules",
    "parts/selective_search.py": "OpenCV may be built without the module",
    "runtime/processes.py": "Linux alone has the call",
    "weights/download.py": "errors of the network library",
}


def test_no_code_inspects_the_fields_of_a_spec() -> None:
    """``getattr(spec, "backbone", None)`` and ``hasattr(input, "short")`` are replaced by properties."""
    places: dict[str, list[int]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            named = len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
            if node.func.id in ("getattr", "hasattr", "setattr") and named:
                places.setdefault(path.relative_to(PACKAGE).as_posix(), []).append(node.lineno)
    assert {path: lines for path, lines in places.items() if path not in EXCEPTIONS} == {}
    assert not EXCEPTIONS.keys() - places.keys(), "an exception out of use"


@pytest.mark.parametrize("name", presets.names())
def test_preset_properties(name: str) -> None:
    spec = presets.get(name)
    assert spec.tasks and set(spec.tasks) <= {"task", "rpn", "roi"}
    assert (spec.source is None) or "roi" in spec.tasks
    assert (spec.pool is not None) == ("roi" in spec.tasks)
    assert spec.backbone is None or isinstance(spec.backbone, BackboneSpec)
    pretrained = name.endswith("_lite")  # by a package that is installed; every other preset starts at random
    assert (spec.weights_file is not None, spec.pixels is not None) == (pretrained, pretrained)


def test_the_tasks_are_the_fields_that_hold_one() -> None:
    faster = presets.faster_rcnn_mini
    assert dict(faster.tasks) == {"rpn": faster.rpn, "roi": faster.roi}
    assert dict(presets.retinanet_mini.tasks) == {"task": presets.retinanet_mini.task}


@pytest.mark.parametrize(
    ("backbone", "pixels"),
    [
        (Torchvision("resnet18", weights="x.pth"), IMAGENET_PIXELS),
        (CaffeNet(weights="x.safetensors"), CAFFE_PIXELS),
        (Darknet("darknet19", weights="x.weights"), UNIT_PIXELS),
        (ImagePyramid(CaffeNet(weights="x.safetensors")), CAFFE_PIXELS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_backbone_declares_the_normalization_of_its_weights(backbone: BackboneSpec, pixels: object) -> None:
    assert replace(presets.retinanet_mini, backbone=backbone).pixels == pixels


def test_another_file_for_the_same_backbone() -> None:
    assert Torchvision("vgg16").with_weights("a.pth") == Torchvision("vgg16", weights="a.pth")
    assert ImagePyramid(CaffeNet()).with_weights("b") == ImagePyramid(CaffeNet(weights="b"))


def test_field_that_overrides_a_property_needs_a_default() -> None:
    with pytest.raises(TypeError, match=r"Own\.backbone has no default"):

        @dataclass(frozen=True)
        class Own(Spec):
            backbone: BackboneSpec
