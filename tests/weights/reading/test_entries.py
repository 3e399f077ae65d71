"""The one set of tensors and the one prefix that fit are found, said, and never guessed."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models import detection as tv

from foveal import presets
from foveal.checkpoints.initial import load_backbone, load_weights
from foveal.checkpoints.load import find
from foveal.checkpoints.transfer import LoadReport
from foveal.errors import FovealError
from foveal.parts.backbones.torchvision import Torchvision

STATE = {k: v for k, v in torchvision.models.resnet18().state_dict().items()}
OTHER = {k: v + 1 if v.is_floating_point() else v for k, v in STATE.items()}
BODY = {k: v for k, v in STATE.items() if not k.startswith("fc.")}
SPEC = replace(presets.retinanet_mini, backbone=Torchvision("resnet18"))


def under(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


class Script:
    """An object of a training script."""


# what is in the file; what is said, in part; "" where nothing is
FOUND: dict[str, tuple[Any, str]] = {
    "plain": (STATE, ""),
    "module": (under("module."), "'module.' was taken off"),
    "compiled": (under("_orig_mod."), "'_orig_mod.' was taken off"),
    "model": (under("model."), "'model.' was taken off"),
    "detector": (under("detector."), "'detector.' was taken off"),
    "two": (under("module.model."), "'module.model.' was taken off"),
    "number": ({"model": under("0.", BODY), "opt": {"state": []}}, "'0.' was taken off"),
    "any": (under("my_own.encoder.", BODY), "'my_own.encoder.' was taken off"),
    "mmpretrain": (
        {"meta": {"epoch": 1}, "state_dict": {**under("backbone.", BODY), "head.fc.weight": torch.ones(9, 512)}},
        "1 tensor outside it is not used (head)",
    ),
    "moco": (
        {
            "arch": "resnet18",
            "state_dict": {
                **under("module.encoder_q."),
                **under("module.encoder_k.", OTHER),
                "module.queue": torch.ones(128, 9),
            },
        },
        "'module.encoder_q.' was taken off the names; 123 tensors outside it are not used (module.encoder_k, module.q",
    ),
    "moco3": ({"state_dict": {**under("base_encoder."), **under("momentum_encoder.", OTHER)}}, "'base_encoder.'"),
    "byol": ({**under("online_encoder."), **under("target_encoder.", OTHER)}, "'online_encoder.'"),
    "lightning": (
        {
            "epoch": 1,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": under("model."),
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
            "hyper_parameters": {"config": Script()},
        },
        "Script",
    ),
    "net": ({"net": STATE, "acc": 90.1, "epoch": 3}, "entry 'net'"),
    "weights": ({"weights": STATE}, "entry 'weights'"),
    "lonely ema": ({"ema_state_dict": STATE, "epoch": 3}, "entry 'ema_state_dict'"),
    "pycls": ({"model_state": STATE, "optimizer_state": {"exp_avg": OTHER}}, "entry 'model_state'"),
    "vissl": ({"classy_state_dict": {"base_model": {"model": {"trunk": under("_feature_blocks.", BODY)}}}}, "trunk"),
    "pair": ((STATE, {"lr": 0.1}), "entry '0'"),
    "loose": ({**STATE, "epoch": 3, "arch": "resnet18"}, "what is no tensor was left out (epoch, arch)"),
    "same twice": ({"a": STATE, "b": dict(STATE)}, "entry 'a'"),
    "momenta": ({"model": STATE, "optimizer": {"momentum_buffer": OTHER}, "grads": OTHER}, ""),
    "model_ema": ({"model": OTHER, "model_ema": STATE, "epoch": 1}, "'model_ema', the average of the weights (EMA)"),
    "state_dict_ema": ({"state_dict": OTHER, "state_dict_ema": STATE}, "not 'state_dict', which fits too"),
    "ema.module": ({"model": OTHER, "ema": {"module": under("module."), "decay": 0.9}}, "'ema.module: module.'"),
    "teacher": (
        {"student": under("module.backbone.", OTHER), "teacher": under("backbone."), "args": argparse.Namespace(a=1)},
        "'teacher: backbone.', the average",
    ),
    "ema prefix": ({**under("model.", OTHER), **under("ema_model.module.")}, "'ema_model.module.', the average"),
    "swa": ({**under("model.", OTHER), **under("averaged_model.")}, "'averaged_model.', the average"),
    "mmengine": (
        {"state_dict": STATE, "ema_state_dict": {**under("module.", OTHER), "steps": torch.tensor(3)}},
        "MMEngine stores the averaged weights (EMA) as 'state_dict'",
    ),
    "projector": ({**BODY, "fc.0.weight": torch.ones(4, 512), "prototypes.weight": torch.ones(3)}, ""),
}


def reports(content: Any, folder: Path) -> list[LoadReport]:
    """Through both doors of training: --weights FILE and backbone.weights=FILE."""
    file = folder / "w.pth"
    torch.save(content, file)
    first, second = SPEC.build(["a"]), SPEC.build(["a"])
    one = load_weights(first, file)
    named = replace(SPEC, backbone=replace(SPEC.backbone, weights=str(file)))
    two = load_backbone(named, second)
    assert two is not None
    for detector in (first, second):
        own = detector.state_dict()
        assert all(torch.equal(own[f"backbone.{k}"], v) for k, v in BODY.items() if "num_batches" not in k)
    return [one, two]


@pytest.mark.parametrize("name", FOUND)
def test_the_fitting_weights_are_found_and_said(name: str, tmp_path: Path) -> None:
    content, words = FOUND[name]
    for report in reports(content, tmp_path):
        assert words in "\n".join(report.notes) if words else report.notes == (), report.notes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"a": STATE, "b": OTHER}, r"holds 2 sets of weights that fit resnet18 and differ: 'a', 'b'"),
        ({**under("left."), **under("right.", OTHER)}, r"'left\.', 'right\.'"),
        ({"ema": STATE, "swa": OTHER}, r"'ema', 'swa'"),
        ({"model": under("model.", torchvision.models.resnet34().state_dict())}, r"does not fit resnet18: unexpected"),
        (under("model.", {k: v for k, v in BODY.items() if k != "layer2.0.conv1.weight"}), "missing"),
        ({**STATE, "layer1.0.se.fc.weight": torch.ones(1)}, r"unexpected layer1\.0\.se"),
        ({"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 1}, "entry 'optimizer' is a dict"),
    ],
)
def test_nothing_is_guessed(content: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save(content, file)
    named = replace(SPEC, backbone=replace(SPEC.backbone, weights=str(file)))
    for load in (lambda: load_weights(SPEC.build(["a"]), file), lambda: load_backbone(named, SPEC.build(["a"]))):
        with pytest.raises(FovealError, match=rf"w\.pth: .*{words}") as caught:
            load()
        assert "\n" not in str(caught.value)


def test_detectors_are_found_too(tmp_path: Path) -> None:
    """torchvision's, and the state of one of our own."""
    theirs = tv.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).state_dict()
    file = tmp_path / "w.ckpt"
    torch.save({"state_dict": under("detector.", theirs), "epoch": 1}, file)
    model = find(file)
    assert model.notes == ("the prefix 'detector.' was taken off the names",)
    model.build(model.spec())
    changed = {k: v + 1 if v.is_floating_point() else v for k, v in theirs.items()}
    torch.save({"net": theirs, "other": changed}, file)
    with pytest.raises(FovealError, match="holds 2 sets of weights that fit a detector"):
        find(file)
    own = presets.retinanet_mini.build(["a", "b"])
    torch.save({"state_dict": under("model.", own.state_dict())}, file)
    fresh = presets.retinanet_mini.build(["a", "b"])
    report = load_weights(fresh, file)
    assert report.new == {} and any("assumed to be a, b" in line for line in report.notes)
    with pytest.raises(FovealError, match="without its spec"):
        find(file)


def test_the_backbone_of_a_detector(tmp_path: Path) -> None:
    resnet = tv.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2).state_dict()
    torch.save({k: v for k, v in resnet.items() if "roi_heads.box_head" not in k}, tmp_path / "w.pth")
    spec = replace(presets.retinanet_mini, backbone=Torchvision("resnet50", weights=str(tmp_path / "w.pth")))
    report = load_backbone(spec, spec.build(["a"]))
    assert report is not None and "'backbone.body.' was taken off the names" in report.notes[0]
    assert "(backbone.fpn, rpn, roi_heads)" in report.notes[0]


def test_caffes_form_of_a_resnet_needs_its_strides(tmp_path: Path) -> None:
    state = torchvision.models.resnet50().state_dict()
    meta = {"config": "model = dict(backbone=dict(type='ResNet', style='caffe'))"}
    for name, content in (
        ("resnet50_caffe.pth", state),
        ("x.pth", {"meta": meta, "state_dict": under("backbone.", state)}),
    ):
        torch.save(content, tmp_path / name)
        plain = replace(presets.retinanet_mini, backbone=Torchvision("resnet50", weights=str(tmp_path / name)))
        with pytest.raises(FovealError, match=r"Caffe's form of resnet50, by its (name|config).*stride_in_1x1=true"):
            load_backbone(plain, plain.build(["a"]))
        strided = replace(plain, backbone=replace(plain.backbone, stride_in_1x1=True))
        assert load_backbone(strided, strided.build(["a"])) is not None
        assert strided.with_pixels().input.std == pytest.approx((1 / 255,) * 3)
