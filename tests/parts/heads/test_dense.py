"""Heads against torchvision's with the same weights; initialization; parameter counts."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead as PeerRPNHead
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import FrozenBatchNorm2d

from foveal.errors import FovealError, UsageError
from foveal.parts.backbones.torchvision import Torchvision
from foveal.parts.heads.dense import RPNHead, Tower
from foveal.parts.heads.roi import Predictor, ResNetTail, RoIConv, RoIMLP, VGGTail
from foveal.parts.layers import norms
from foveal.parts.layers.norms import FrozenBatchNorm
from foveal.parts.necks.fpn import FPN

WIDTH = 32


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def maps() -> list[Tensor]:
    rng = torch.Generator().manual_seed(4)
    shapes = ((7, 9), (4, 5), (2, 3))
    return [torch.randn(2, WIDTH, h, w, generator=rng).to(memory_format=torch.channels_last) for h, w in shapes]


def pooled(channels: int = WIDTH, size: int = 7, count: int = 6) -> Tensor:
    x = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(5))
    return x.to(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------------------------------- dense
@pytest.mark.parametrize("norm", [None, "group"])
def test_tower_matches_torchvision(norm: str | None) -> None:
    peer = RetinaNetHead(WIDTH, 3, 5, norm_layer=partial(nn.GroupNorm, 32) if norm else None)
    ours = Tower(norm=norm).build((WIDTH,) * 3, (3,) * 3, 5, None)  # type: ignore[arg-type]
    ours.load_state_dict(peer.state_dict())
    found, expected = ours(maps()), peer(maps())
    assert found.logits.shape == (2, (63 + 20 + 6) * 3, 5)
    torch.testing.assert_close(found.logits, expected["cls_logits"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.deltas, expected["bbox_regression"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2])
def test_rpn_head_matches_torchvision(depth: int) -> None:
    peer = PeerRPNHead(WIDTH, 3, conv_depth=depth)
    ours = RPNHead(depth=depth).build((WIDTH,) * 3, (3,) * 3, 1, None)
    ours.load_state_dict(peer.state_dict())
    found = ours(maps())
    logits, deltas = concat_box_prediction_layers(*peer(maps()))
    torch.testing.assert_close(found.logits.flatten(0, 1), logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.deltas.flatten(0, 1), deltas, rtol=1e-5, atol=1e-6)


def test_dense_head_initialization() -> None:
    """Standard deviation .01, bias 0, and the prior probability .01 in the class layer (RetinaNet, 4.1)."""
    bias = -math.log((1 - 0.01) / 0.01)
    tower = Tower(channels=64).build((64,) * 2, (9, 9), 80, bias)
    last = tower.classification_head.last
    assert last.bias is not None
    assert float(last.bias.detach().unique()) == pytest.approx(-4.59511985)  # systems.md, section 4
    assert float(last.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not tower.regression_head.last.bias.any()  # type: ignore[union-attr]
    rpn = RPNHead(channels=48).build((64,), (12,), 2, None)
    assert rpn.conv[0][0].weight.shape == (48, 64, 3, 3)  # type: ignore[index, union-attr]
    assert rpn.cls_logits.weight.shape == (24, 48, 1, 1)
    assert not rpn.cls_logits.bias.any()  # type: ignore[union-attr]


def test_shared_heads_require_equal_levels() -> None:
    with pytest.raises(UsageError, match=r"same channels at each, got \(32, 64\)"):
        Tower().build((32, 64), (9, 9), 1, None)
    with pytest.raises(UsageError, match="same number of priors"):
        RPNHead().build((32, 32), (9, 3), 1, None)


# --------------------------------------------------------------------------------------------------- proposals
def compare_roi(ours: nn.Module, trunk: nn.Module, classes: int, width: int, x: Tensor) -> None:
    """Ours and torchvision's trunk with a predictor that has the background first."""
    peer = FastRCNNPredictor(width, classes + 1)
    with torch.no_grad():
        ours.trunk.load_state_dict(trunk.state_dict())  # type: ignore[operator, union-attr]
        ours.predictor.cls_score.weight.copy_(peer.cls_score.weight.roll(-1, 0))  # type: ignore[union-attr]
        ours.predictor.cls_score.bias.copy_(peer.cls_score.bias.roll(-1, 0))  # type: ignore[union-attr]
        ours.predictor.bbox_pred.weight.copy_(peer.bbox_pred.weight[4:])  # type: ignore[union-attr]
        ours.predictor.bbox_pred.bias.copy_(peer.bbox_pred.bias[4:])  # type: ignore[union-attr]
        found = ours(x, 2)
        logits, deltas = peer(trunk(x))
    p = x.shape[0] // 2
    assert found.logits.shape == (2, p, classes + 1)
    assert found.deltas.shape == (2, p, classes, 4)
    torch.testing.assert_close(found.logits, logits.roll(-1, 1).view(2, p, -1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.deltas, deltas.view(2, p, -1, 4)[:, :, 1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("as_conv", [False, True])
def test_roi_mlp_matches_torchvision(as_conv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both implementations of the first layer, whichever this CPU would use."""
    monkeypatch.setattr(norms, "_has_avx512", lambda: as_conv)
    ours = RoIMLP(48).build(WIDTH, (7, 7), 6, 5, None)
    compare_roi(ours, TwoMLPHead(WIDTH * 49, 48), 5, 48, pooled())


@pytest.mark.parametrize("as_conv", [False, True])
def test_roi_conv_matches_torchvision(as_conv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "_has_avx512", lambda: as_conv)
    ours = RoIConv(channels=16, width=48).build(WIDTH, (7, 7), 6, 5, None).eval()
    trunk = FastRCNNConvFCHead((WIDTH, 7, 7), [16] * 4, [48], norm_layer=nn.BatchNorm2d).eval()
    compare_roi(ours, trunk, 5, 48, pooled())


def test_resnet_tail_matches_torchvision(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    torch.save(network.state_dict(), tmp_path / "r18.pth")
    spec = ResNetTail("resnet18")
    head = spec.build(256, (14, 14), 4, 3, None)
    spec.load_pretrained(head, tmp_path / "r18.pth")
    assert set(head.trunk.state_dict()) == {k for k in network.state_dict() if k.startswith("layer4")}
    x = pooled(256, 14, 4)
    with torch.no_grad():
        vectors = head.trunk(x)
        torch.testing.assert_close(vectors, network.layer4(x).mean((2, 3)), rtol=1e-4, atol=1e-5)
        assert head(x, 2).deltas.shape == (2, 2, 3, 4)
    assert all(m.fused for m in head.modules() if isinstance(m, FrozenBatchNorm))
    with pytest.raises(UsageError, match="the name of a ResNet"):
        ResNetTail("vgg16").build(512, (7, 7), 4, 3, None)


def test_vgg_tail_loads_the_classifier(tmp_path: Path) -> None:
    """fc6 and fc7 are VGG's ``classifier.0`` and ``classifier.3``; at half the width here."""
    layers = {
        "classifier.0": nn.Linear(WIDTH * 49, 24),
        "classifier.3": nn.Linear(24, 24),
        "features.0": nn.Linear(1, 1),
    }
    state = {f"{n}.{k}": v for n, layer in layers.items() for k, v in layer.state_dict().items()}
    torch.save(state, tmp_path / "vgg.pth")
    spec = VGGTail(24)
    head = spec.build(WIDTH, (7, 7), 4, 3, None)
    spec.load_pretrained(head, tmp_path / "vgg.pth")
    x = pooled()
    with torch.no_grad():
        expected = layers["classifier.3"](layers["classifier.0"](x.flatten(1)).relu()).relu()
        torch.testing.assert_close(head.eval().trunk(x), expected, rtol=1e-5, atol=1e-5)
        assert float((head.train().trunk(x) == 0).float().mean()) > 0.6  # half dropped, half of the others below zero
    torch.save({"features.0.weight": torch.ones(1)}, tmp_path / "bare.pth")
    with pytest.raises(FovealError, match=r"bare\.pth.*missing fc6\.weight"):
        spec.load_pretrained(head, tmp_path / "bare.pth")


def test_vgg_head_count() -> None:
    """Fast R-CNN on VGG-16 has 134,690,729 parameters (systems.md, 3.3) with a background box; ours has none."""
    with torch.device("meta"):
        head = VGGTail().build(512, (7, 7), 21, 20, None)
    assert sum(p.numel() for p in head.parameters()) + 14_714_688 == 134_690_729 - 4 * (4096 + 1)


def test_predictor_initialization() -> None:
    published = RoIMLP(256).build(WIDTH, (7, 7), 81, 80, None).predictor
    assert float(published.cls_score.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert float(published.bbox_pred.weight.detach().std()) == pytest.approx(0.001, rel=0.05)
    plain = RoIMLP(256, predictor=Predictor(None, None)).build(WIDTH, (7, 7), 81, 80, -2.0).predictor
    assert float(plain.cls_score.weight.detach().std()) == pytest.approx(
        1 / math.sqrt(3 * 256), rel=0.05
    )  # PyTorch's default
    assert float(plain.cls_score.bias.detach().unique()) == -2.0


def test_class_agnostic_boxes() -> None:
    head = RoIMLP(16, depth=1, predictor=Predictor(agnostic=True)).build(WIDTH, (7, 7), 6, 5, None)
    assert head(pooled(), 3).deltas.shape == (3, 2, 4)


# ------------------------------------------------------------------------------------------ complete detectors
def count(*modules: nn.Module) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())


def test_whole_counts() -> None:
    """Those of systems.md section 4 (frozen norms); torchvision's Faster R-CNN has a box for the background besides."""
    with torch.device("meta"):
        body = Torchvision("resnet50", frozen_stages=2).build()
    neck = FPN(256, extra="p6p7-p5").build(body.channels[1:], body.strides[1:])
    tower = Tower().build(neck.channels, (9,) * 5, 91, None)
    assert count(body, neck, tower) == 34_014_999
    neck = FPN(256).build(body.channels, body.strides)
    rpn = RPNHead().build(neck.channels, (3,) * 5, 1, None)
    head = RoIMLP(1024).build(256, (7, 7), 91, 90, None)
    assert count(body, neck, rpn, head) == 41_755_286 - 4 * (1024 + 1)
