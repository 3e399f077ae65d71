"""CaffeNet, ZF-5, the R-CNN head and the image pyramid: published counts and sizes, keys of Caffe."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from foveal.errors import FovealError, UsageError
from foveal.parts.backbones.base import BackboneSpec
from foveal.parts.backbones.caffe import ZF5, CaffeNet
from foveal.parts.backbones.image_pyramid import ImagePyramid
from foveal.parts.backbones.small import SmallResNet
from foveal.parts.heads.rcnn import RCNNHead
from foveal.parts.heads.roi import Predictor
from foveal.parts.losses.svm import SoftmaxOrSVM


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def shapes(spec: BackboneSpec, side: int, levels: tuple[int, ...]) -> list[tuple[int, ...]]:
    with torch.device("meta"):
        return [tuple(m.shape[1:]) for m in spec.build(levels)(torch.empty(1, 3, side, side))]


def test_caffenet() -> None:
    """2,334,080 in the convolutions; 60,965,224 for 1,000 classes, 56,954,261 for 20 and background (section 3.1)."""
    with torch.device("meta"):
        body = CaffeNet().build((5,))
        heads = [RCNNHead().build(256, 6, logits, logits, None) for logits in (1000, 21)]
    assert count(body) == 2_334_080
    for head, total in zip(heads, (60_965_224, 56_954_261), strict=True):
        assert count(body, head.trunk, head.predictor.cls_score) == total
    assert heads[1].predictor.bbox_pred.in_features == 9216
    assert shapes(CaffeNet(), 227, (2, 3, 4, 5)) == [(96, 55, 55), (256, 27, 27), (256, 13, 13), (256, 6, 6)]
    assert body.strides == (32,) and body.channels == (256,)


def test_caffenet_padded_for_whole_images() -> None:
    """Fast R-CNN's (models/CaffeNet/train.prototxt): conv1 padded by 5, pools by 1. Cell i of conv5 is then centered on
    pixel 16 i: conv1 starts at 0, every padded layer keeps that. Unpadded it is 5 + 4 + 8 = 17 pixels later."""
    for padded, center in ((True, 160), (False, 177)):
        body = CaffeNet(returns=("conv5",), padded=padded).build().double()
        with torch.no_grad():
            for layer in body.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.weight.fill_(1.0 / layer.weight[0].numel())
        pixels = torch.rand(1, 3, 331, 331, dtype=torch.float64, requires_grad=True)
        (found,) = body(pixels)
        found[0, 0, 10, 10].backward()
        assert pixels.grad is not None
        seen = pixels.grad.abs().sum((0, 1, 2)).nonzero()
        assert abs((int(seen.min()) + int(seen.max())) / 2 - center) <= 8  # which maxima are largest is random
    assert shapes(CaffeNet(returns=("conv5",), padded=True), 224, (4,)) == [(256, 15, 15)]  # 56, 29, 15
    assert shapes(CaffeNet(returns=("conv5",)), 227, (4,)) == [(256, 13, 13)]
    with torch.device("meta"):
        still = CaffeNet(returns=("conv5",), frozen_stages=1).build()
    assert {n for n, p in still.named_parameters() if not p.requires_grad} == {"conv1.weight", "conv1.bias"}


def test_zf5() -> None:
    """3.73 M in the convolutions, 69.3 M connected to 12,800 numbers; 13 cells of 224, 10 of 180 pixels."""
    with torch.device("meta"):
        body = ZF5().build((4,))
        head = RCNNHead().build(256 * 50, 1, 21, 20, None)
    assert count(body) == 3_726_464 and body.strides == (16,)
    assert count(head.trunk, head.predictor.cls_score) == 69_300_245
    assert shapes(ZF5(), 224, (4,)) == [(256, 13, 13)] and shapes(ZF5(), 180, (4,)) == [(256, 10, 10)]


@torch.no_grad()
def test_layers_match_caffe() -> None:
    """Pooling before normalization, ReLU before both, Caffe's alpha / n: one position by hand."""
    torch.manual_seed(0)
    body = CaffeNet(returns=("norm1",)).build()
    x = torch.randn(1, 3, 67, 67)
    (found,) = body(x)
    y = torch.nn.functional.max_pool2d(torch.relu(torch.nn.functional.conv2d(x, body.conv1.weight, None, 4)), 3, 2)
    window = y[0, 38:43, 1, 2]  # five channels round the fortieth
    assert found[0, 40, 1, 2] == pytest.approx(float(y[0, 40, 1, 2] / (1 + 1e-4 / 5 * window.square().sum()) ** 0.75))
    assert list(body.state_dict()) == ["conv1.weight", "conv1.bias"]


def test_weights_come_from_a_file_with_caffes_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec, other = CaffeNet(), CaffeNet().build((5,))
    connected = RCNNHead(width=16).build(256, 6, 4, 3, None, CaffeNet().build((5,)))
    file = tmp_path / "net.safetensors"
    save_file({**other.state_dict(), **connected.trunk.state_dict()}, file)
    body, head = spec.build((5,)), RCNNHead(width=16).build(256, 6, 4, 3, None)
    spec.load_pretrained(body, file)
    RCNNHead().load_pretrained(head, file)
    assert all(torch.equal(a, b) for a, b in zip(body.parameters(), other.parameters(), strict=True))
    assert torch.equal(head.trunk.fc7.weight, connected.trunk.fc7.weight)
    darknet = tmp_path / "tiny.weights"  # of a network without such layers: header, then floats
    darknet.write_bytes(struct.pack("<iiiq", 0, 2, 0, 0) + bytes(400))
    RCNNHead().load_pretrained(head, darknet)
    assert torch.equal(head.trunk.fc7.weight, connected.trunk.fc7.weight)
    wide = RCNNHead(width=32).build(256, 6, 4, 3, None)
    before = wide.trunk.fc6.weight.clone()
    RCNNHead(width=32).load_pretrained(wide, file)  # layers of another size keep their initialization
    assert torch.equal(wide.trunk.fc6.weight, before)
    save_file({k: v for k, v in other.state_dict().items() if k != "conv3.bias"}, file)
    with pytest.raises(FovealError, match=r"missing conv3\.bias"):
        spec.load_pretrained(body, file)


def test_frozen_stages_and_unknown_layers() -> None:
    with torch.device("meta"):
        body = CaffeNet(frozen_stages=2).build((5,))
        assert [n for n, p in body.named_parameters() if not p.requires_grad] == [
            f"conv{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")
        ]
        with pytest.raises(UsageError, match="conv5"):
            CaffeNet(returns=("conv6",)).build()
        with pytest.raises(UsageError, match="stages"):
            ZF5(frozen_stages=9).build((4,))


# ------------------------------------------------------------------------------------------------------- the head
def test_class_and_box_features_are_separate() -> None:
    torch.manual_seed(0)
    head = RCNNHead(width=8, predictor=Predictor(0.1, 0.1)).build(4, 3, 3, 2, None).eval()
    rois = torch.randn(6, 4, 3, 3)
    classes, boxes = head.split_features(rois)
    assert classes.shape == (6, 8) and torch.equal(boxes, rois.flatten(1))
    found = head(rois, 2)
    assert found.logits.shape == (2, 3, 3) and found.deltas.shape == (2, 3, 2, 4)
    assert torch.allclose(found.deltas.flatten(0, 1), head.predictor.bbox_pred(rois.flatten(1)).view(6, 2, 4))


def test_boxes_are_unchanged_until_regression_is_fitted() -> None:
    head = RCNNHead(width=8).build(4, 3, 3, 2, None)
    assert head(torch.randn(2, 4, 3, 3), 1).deltas.abs().max() == 0


def test_any_backbone_makes_the_map_of_a_crop() -> None:
    torch.manual_seed(0)
    head = RCNNHead(depth=0).build(16, 2, 4, 3, None, SmallResNet((8, 8, 8, 16)).build((5,))).eval()
    assert head(torch.randn(5, 3, 96, 96), 1).logits.shape == (1, 5, 4)  # 3 x 3 cells, averaged to 2 x 2
    assert head.split_features(torch.randn(5, 3, 64, 64))[0].shape == (5, 64)


def test_initial_biases() -> None:
    head = RCNNHead(width=8, bias=1.0).build(4, 3, 3, 2, None)
    assert head.trunk.fc6.bias.tolist() == [1.0] * 8 and head.predictor.cls_score.bias.tolist() == [0.0] * 3


# ---------------------------------------------------------------------------------------------------- the pyramid
def test_image_pyramid() -> None:
    torch.manual_seed(0)
    spec = ImagePyramid(SmallResNet((8, 8, 16)), (120, 60, 48))
    body = spec.build((4,)).eval()
    assert body.channels == (16, 16, 16) and body.strides == (16, 32, 40)
    pixels = torch.randn(1, 3, 120, 160)
    maps = body(pixels)
    assert [m.shape[-2:] for m in maps] == [(8, 10), (4, 5), (3, 4)]
    small = torch.nn.functional.interpolate(pixels, (60, 80), mode="bilinear", align_corners=False)
    assert torch.equal(maps[1], body.body(small)[-1])
    with pytest.raises(UsageError, match="largest first"):
        ImagePyramid(SmallResNet(), (480, 600))
    as_given = ImagePyramid(SmallResNet((8, 8, 16)), (120, 60, 48), in_training=False).build((4,))
    as_given.load_state_dict(body.state_dict())
    assert len(as_given.eval()(pixels)) == 3
    (alone,) = as_given.train()(pixels)
    assert torch.equal(alone, body.train()(pixels)[0])


# ---------------------------------------------------------------------------------------------------- SoftmaxOrSVM
def test_softmax_in_training_and_svm_margin_afterwards() -> None:
    logits = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    p: Tensor = logits.softmax(-1)
    assert torch.allclose(SoftmaxOrSVM().scores(logits), p[..., :3] / (p[..., :3] + p[..., 3:]), atol=1e-6)
    logits[..., 3] = 0  # what an SVM stage writes
    assert torch.allclose(SoftmaxOrSVM().scores(logits), logits[..., :3].sigmoid(), atol=1e-6)
    labels, positive = torch.tensor([[0, 1, 2, 0, 1]] * 2), torch.tensor([[True, False, True, True, False]] * 2)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.where(positive, labels, 3).flatten(), reduction="none"
    )
    assert torch.allclose(SoftmaxOrSVM()(logits, labels, positive).flatten(), expected)
    assert SoftmaxOrSVM().channels(3) == 4


def test_any_cnn_looks_at_the_crops() -> None:
    """R-CNN on a network that ends at stride 16 and on one that ends at 32."""
    from foveal.detectors.rcnn import RCNN
    from foveal.parts.backbones.torchvision import Torchvision

    for name, channels in (("squeezenet1_0", 512), ("resnet18", 512), ("mobilenet_v2", 1280)):
        with torch.device("meta"):
            detector = RCNN(backbone=Torchvision(name), cells=3, head=RCNNHead(16, depth=1)).build("ab")
            assert detector.get_submodule("roi_head.trunk.fc6").in_features == channels * 9
