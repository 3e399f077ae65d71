"""timm's networks as backbones, against timm itself (1.0.31 when written)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from foveal import presets
from foveal.config import override, parse_spec
from foveal.errors import FovealError, UsageError
from foveal.parts.timm_backbones import Timm

timm = pytest.importorskip("timm", reason="timm is not installed")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "darknet17"])
def test_maps_are_timms_own(name: str, tmp_path: Path) -> None:
    """A file of the whole network, classifier and all, gives the maps that timm takes from that network."""
    torch.manual_seed(0)
    whole = timm.create_model(name).eval()
    state = whole.state_dict()
    for key, value in state.items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")
    spec = Timm(name, weights=str(tmp_path / "w.safetensors"))
    body = spec.build((3, 4, 5))
    spec.load_pretrained(body)
    assert body.strides == (8, 16, 32)
    pixels = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        ours = body.eval()(pixels)
        last = whole.forward_features(pixels)
        theirs = timm.create_model(name, features_only=True, out_indices=_places(name)).eval()
        flat = {k.replace(".", "_", 1): v for k, v in state.items()} | state
        theirs.load_state_dict({k: flat[k] for k in theirs.state_dict()})
        for a, b in zip(ours, theirs(pixels), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    if name != "convnext_atto":  # its features end with a norm that the maps do not have
        assert last.shape[-2:] == ours[-1].shape[-2:]


def _places(name: str) -> tuple[int, ...]:
    reductions = timm.create_model(name, features_only=True).feature_info.reduction()
    return tuple(i for i, r in enumerate(reductions) if r in (8, 16, 32))


@pytest.mark.parametrize("preset", ["retinanet_mini", "faster_rcnn_mini", "fcos_mini", "yolo_v2_mini", "yolo_v3_mini"])
def test_every_detector_takes_one(preset: str) -> None:
    from .test_slots import batch

    spec = override(presets.get(preset), ["backbone=Timm('mobilenetv3_small_050')"])
    assert parse_spec(repr(spec)) == spec
    images, targets = batch((2, 0))
    losses = spec.build(("a", "b", "c"))(images, targets)
    assert torch.stack(list(losses.values())).isfinite().all()


def test_frozen_stages_keep_still() -> None:
    body = Timm("resnet18", frozen_stages=1).build((2, 3))
    still = {n.split(".")[1] for n, p in body.named_parameters() if not p.requires_grad}
    assert still == {"conv1", "layer1"}  # norms are constants
    assert any(p.requires_grad for n, p in body.named_parameters() if "layer2" in n)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'resnet18'"):
        Timm("resnet18x").build()
    with pytest.raises(UsageError, match="not what a detector needs"):
        Timm("vit_tiny_patch16_224").build()
    with pytest.raises(UsageError, match="does not take a picture"):
        Timm("swin_tiny_patch4_window7_224").build()
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    spec = Timm("resnet18")
    with pytest.raises(FovealError, match="does not fit resnet18"):
        spec.load_pretrained(spec.build((3,)), tmp_path / "w.safetensors")
    assert replace(spec, weights=None).weights_file is None
