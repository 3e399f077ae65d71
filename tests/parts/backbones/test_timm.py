"""timm's networks as backbones, against timm itself (1.0.31 when written)."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from foveal import presets
from foveal.checkpoints.export import export
from foveal.cli import main as cli
from foveal.config.overrides import override
from foveal.config.parse import parse_spec
from foveal.errors import FovealError, UsageError
from foveal.parts.backbones.timm import Timm
from foveal.parts.heads.timm import TimmTail
from foveal.parts.layers.norms import FrozenBatchNorm, fold_norms
from foveal.types import Target, Targets
from foveal.weights.open import read_state

timm = pytest.importorskip("timm", reason="timm is not installed")


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "darknet17"])
def test_maps_match_timm(name: str, tmp_path: Path) -> None:
    """A file of the whole network, classifier included, gives the feature maps of timm for that network."""
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


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "convnext_atto"])
def test_round_trip(name: str, tmp_path: Path) -> None:
    """Exported under the keys of timm's whole network, which reads it; every bit of the maps' layers is the same."""
    torch.manual_seed(0)
    state = {
        key: torch.rand_like(value.float()).to(value.dtype)
        for key, value in timm.create_model(name).state_dict().items()
    }
    save_file(state, tmp_path / "w.safetensors")
    spec = replace(presets.retinanet_mini, backbone=Timm(name, weights=str(tmp_path / "w.safetensors")))
    detector = spec.build(["a"])
    spec.load_pretrained(detector)
    for out in ("b.pth", "c.safetensors"):
        export(tmp_path / out, "backbone", spec, ["a"], detector.state_dict())
        found = read_state(tmp_path / out)
        assert len(found) > 20 and all(torch.equal(value, state[key]) for key, value in found.items())
        again = replace(spec, backbone=Timm(name, weights=str(tmp_path / out)))
        detector = again.build(["a"])
        again.load_pretrained(detector)


@pytest.mark.parametrize("preset", ["retinanet_mini", "faster_rcnn_mini", "fcos_mini", "yolo_v2_mini", "yolo_v3_mini"])
def test_every_detector_accepts_a_timm_backbone(preset: str) -> None:
    from tests.presets.test_slots import batch

    spec = override(presets.get(preset), ["backbone=Timm('mobilenetv3_small_050')"])
    assert parse_spec(repr(spec)) == spec
    images, targets = batch((2, 0))
    losses = spec.build(("a", "b", "c"))(images, targets)
    assert torch.stack(list(losses.values())).isfinite().all()


def shake(module: nn.Module) -> None:
    """Statistics and affine values that are not 0 and 1."""
    rng = torch.Generator().manual_seed(1)
    bounds = {"running_mean": (-0.3, 0.3), "running_var": (0.5, 1.5), "bias": (-0.2, 0.2), "weight": (0.5, 1.0)}
    for key, value in module.state_dict().items():
        low_high = bounds.get(key.rpartition(".")[2])
        if value.dim() == 1 and low_high is not None:
            value.uniform_(*low_high, generator=rng)


@pytest.mark.parametrize(
    ("name", "fused", "norms"),
    [
        ("tf_efficientnet_lite0", 48, 48),  # norms with an activation, padding of TensorFlow
        ("resnet18", 20, 20),
        ("regnety_002", 44, 44),
        ("repvit_m0_9", 83, 106),  # one norm is of a sum, though it follows a convolution in the module
    ],
)
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_norms_become_part_of_their_convolutions(name: str, fused: int, norms: int, norm: str) -> None:
    """The maps are those of timm's network with the same state, in training form and folded for inference."""
    body = Timm(name, norm=norm).build((3, 4, 5))  # type: ignore[arg-type]
    shake(body)
    theirs = timm.create_model(name, features_only=True, out_indices=_places(name))
    theirs.load_state_dict({k.removeprefix("network."): v for k, v in body.state_dict().items()}, strict=False)
    pixels = torch.randn(2, 3, 64, 96)
    if norm == "frozen":
        found = [m for m in body.modules() if isinstance(m, FrozenBatchNorm)]
        assert (sum(m.fused for m in found), len(found)) == (fused, norms)
    folded = fold_norms(body)
    with torch.no_grad():
        expected = theirs.eval()(pixels)
        for maps in (body.eval()(pixels), folded(pixels)):
            for a, b in zip(maps, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_frozen_stages_need_no_backward_pass() -> None:
    """No graph is built up to the last frozen map, so nothing of it is kept for a backward pass."""
    body = Timm("tf_efficientnet_lite0", frozen_stages=2).build((3, 4, 5))
    saved: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        first, second, last = body(torch.rand(1, 3, 64, 96))
    assert (first.requires_grad, second.requires_grad, last.requires_grad) == (False, False, True)
    assert max(shape[2] for shape in saved if len(shape) == 4 and shape[0] == 1) <= 7  # stride 16, padded


def test_frozen_stages_do_not_change() -> None:
    body = Timm("resnet18", frozen_stages=1).build((2, 3))
    still = {n.split(".")[1] for n, p in body.named_parameters() if not p.requires_grad}
    assert still == {"conv1", "layer1"}  # norms are constants
    assert any(p.requires_grad for n, p in body.named_parameters() if "layer2" in n)


# ---------------------------------------------------------------------------------------------- last stage as head
def numbers(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_inception_resnet_v2() -> None:
    """The network's own 55,843,464 without its classifier and norms (constants here), an RPN of 512 channels and 12
    anchors (3 x 3, then 1 and 4 numbers an anchor), and the two last layers on 1,536 numbers: 80 + 1 and 4 x 80."""
    with torch.device("meta"):
        whole = timm.create_model("inception_resnet_v2")
        detector = presets.faster_rcnn_inception_resnet_v2.build([f"c{i}" for i in range(80)])
    assert numbers(whole) == 55_843_464
    norms = [m for m in whole.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    rpn = (9 * 1088 + 1) * 512 + 12 * 5 * 513
    assert numbers(detector) == 55_843_464 - 1000 * 1537 - numbers(*norms) + rpn + 1537 * (81 + 320)
    assert detector.strides == (16,) and detector.rpn_head.conv[0][0].in_channels == 1088
    with torch.device("meta"):
        for side in (256, 192, 33):
            (found,) = detector.backbone(torch.empty(1, 3, side, side))
            assert found.shape == (1, 1088, -(-side // 16), -(-side // 16))


def test_a_step_and_a_detection_of_inception_resnet_v2() -> None:
    changes = ["train_proposals=Counts(100, 8)", "test_proposals=Counts(100, 4)", "roi.sampler=Balanced(4, 0.25)"]
    detector = override(presets.faster_rcnn_inception_resnet_v2, [*changes, "pool.size=5"]).build(["a", "b"])
    image, box = torch.rand(3, 96, 128), torch.tensor([[20.0, 20, 90, 80]])
    images = detector.prepare([(image.permute(1, 2, 0) * 255).byte().numpy()])
    images = replace(images, pixels=images.pixels[..., :128, :160], sizes=torch.tensor([[128, 160]]))
    targets = Targets.pad([Target(box, torch.tensor([1]))])
    losses = detector(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters() if p.requires_grad)
    assert len(detector.eval()(images)) == 1


@pytest.mark.parametrize("name", ["resnet18", "resnet26"])
def test_a_tail_is_the_networks_last_stage(name: str, tmp_path: Path) -> None:
    """Backbone and tail from one file give what timm's network pools for its classifier."""
    torch.manual_seed(0)
    whole = timm.create_model(name).eval()
    save_file({k: v.contiguous() for k, v in whole.state_dict().items()}, tmp_path / "w.safetensors")
    spec, tail = Timm(name, weights=str(tmp_path / "w.safetensors")), TimmTail(name)
    body, head = spec.build((4,)), tail.build(256, (6, 4), 3, 2, None)
    spec.load_pretrained(body)
    tail.load_pretrained(head, tmp_path / "w.safetensors")
    pixels = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        vectors = head.eval().trunk(body.eval()(pixels)[0])
        torch.testing.assert_close(vectors, whole.forward_features(pixels).mean((2, 3)), atol=1e-4, rtol=1e-4)
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(FovealError, match=r"does not fit .*last stage"):
        tail.load_pretrained(head, tmp_path / "w.safetensors")


def test_no_tail_without_a_last_stage() -> None:
    with pytest.raises(UsageError, match="no last stage to cut off"):
        TimmTail("mobilenetv3_small_050").trunk(48, (7, 7))


def test_missing_timm_error_names_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for build in (presets.faster_rcnn_inception_resnet_v2.build, lambda _: TimmTail("resnet18").trunk(256, (7, 7))):
        with pytest.raises(UsageError, match="timm is not installed") as caught:
            build("ab")
        assert "foveal[timm]" in str(caught.value)
    name = "faster_rcnn_inception_resnet_v2"
    monkeypatch.setattr(presets, "names", lambda: [name, "retinanet_mini"])
    assert cli.main(["models"]) == 0  # the list builds no network
    assert name in capsys.readouterr().out


def test_incompatible_backbones_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean resnet18"):
        Timm("resnet18x").build()
    with pytest.raises(UsageError, match="not what a detector needs"):
        Timm("vit_tiny_patch16_224").build()
    with pytest.raises(UsageError, match="does not take an image"):
        Timm("swin_tiny_patch4_window7_224").build()
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    spec = Timm("resnet18")
    with pytest.raises(FovealError, match="does not fit resnet18"):
        spec.load_pretrained(spec.build((3,)), tmp_path / "w.safetensors")
    assert replace(spec, weights=None).weights_file is None
