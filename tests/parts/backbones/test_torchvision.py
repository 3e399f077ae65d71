"""Backbones and norms against torchvision with the same weights, and against known counts."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from foveal.errors import FovealError, UsageError
from foveal.parts.backbones.torchvision import Backbone, Torchvision
from foveal.parts.layers.norms import FrozenBatchNorm, FrozenConv, fold_norms, fuse_frozen, make_norm, replace_norms


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def shake(module: nn.Module) -> None:
    """Statistics and affine values that are not 0 and 1, small enough for a deep network to stay finite."""
    rng = torch.Generator().manual_seed(1)
    for m in module.modules():
        if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm, FrozenBatchNorm2d)):
            for name, low, high in (("weight", 0.3, 0.7), ("bias", -0.2, 0.2), ("running_mean", -0.1, 0.1)):
                getattr(m, name).data.uniform_(low, high, generator=rng)
            m.running_var.data.uniform_(0.5, 1.5, generator=rng)  # type: ignore[union-attr]


def sample_image(size: int = 96) -> Tensor:
    return torch.randn(2, 3, size, size + 32, generator=torch.Generator().manual_seed(2))


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max())


def peer_features(network: nn.Module, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
    """The outputs of the named layers of torchvision's network, by hooks."""
    found: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(n).register_forward_hook(lambda _m, _i, out, n=n: found.update({n: out.clone()}))
        for n in names
    ]
    with torch.no_grad():
        network.eval()(x)
    for hook in hooks:
        hook.remove()
    return [found[n] for n in names]


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("resnet18", (64, 128, 256, 512), (4, 8, 16, 32)),
        ("resnet50", (256, 512, 1024, 2048), (4, 8, 16, 32)),
        ("resnext50_32x4d", (256, 512, 1024, 2048), (4, 8, 16, 32)),
        ("mobilenet_v3_large", (24, 40, 112, 960), (4, 8, 16, 32)),
        ("squeezenet1_0", (256, 512, 512), (4, 8, 16)),
        ("efficientnet_b0", (24, 40, 112, 1280), (4, 8, 16, 32)),
        ("regnet_y_400mf", (48, 104, 208, 440), (4, 8, 16, 32)),
        ("densenet121", (256, 512, 1024, 1024), (4, 8, 16, 32)),
        ("shufflenet_v2_x0_5", (24, 48, 96, 1024), (4, 8, 16, 32)),
    ],
)
def test_same_as_torchvision(name: str, channels: tuple[int, ...], strides: tuple[int, ...], tmp_path: Path) -> None:
    peer = torchvision.models.get_model(name, weights=None)
    shake(peer)
    file = tmp_path / f"{name}.pth"
    torch.save(peer.state_dict(), file)
    spec = Torchvision(name, weights=str(file))
    ours = spec.build()
    spec.load_pretrained(ours)
    assert ours.channels == channels
    assert ours.strides == strides
    x = sample_image()
    with torch.no_grad():
        features = ours.eval()(x)
    for mine, theirs, c, s in zip(features, peer_features(peer, ours.names, x), channels, strides, strict=True):
        assert mine.shape[1] == c
        assert abs(x.shape[2] / mine.shape[2] / s - 1) < 0.25  # SqueezeNet pads nothing: 5 in place of 6
        assert relative(mine, theirs) <= 1e-5


def test_vgg_same_as_torchvision() -> None:
    """Only the convolutions: the full VGG-16 has half a gigabyte of classifier."""
    ours = Torchvision("vgg16", frozen_stages=2, returns=(4,)).build()
    assert (ours.names, ours.channels, ours.strides) == (("features.29",), (512,), (16,))
    assert sum(p.numel() for p in ours.parameters()) == 14_714_688  # systems.md, section 4
    trained = {n for n, p in ours.named_parameters() if p.requires_grad}
    assert min(int(n.split(".")[1]) for n in trained) == 10  # conv3_1: conv1 and conv2 are frozen in Fast R-CNN
    peer = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"])
    peer.load_state_dict({k.removeprefix("features."): v for k, v in ours.state_dict().items()})
    x = sample_image(64)
    with torch.no_grad():
        assert relative(ours(x)[0], peer[:30](x)) <= 1e-5


def test_caffe_pooling_rounds_up() -> None:
    """Conv5 of 600 x 1000 is 38 x 63 in Caffe and 37 x 62 with floor (systems.md, 1.7); here an eighth of it."""
    spec = Torchvision("vgg11", returns=(4,), frozen_stages=0)
    with torch.device("meta"):
        sizes = [tuple(s.build()(torch.empty(1, 3, 600, 1000))[0].shape[2:]) for s in (spec, Torchvision(
            "vgg11", returns=(4,), frozen_stages=0, ceil=True))]  # fmt: skip
    assert sizes == [(37, 62), (38, 63)]


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t"])
def test_layer_norm_networks(name: str) -> None:
    ours = Torchvision(name, frozen_stages=1).build()
    peer = torchvision.models.get_model(name, weights=None)
    peer.load_state_dict(ours.state_dict(), strict=False)
    x = sample_image(64)
    with torch.no_grad():
        features = ours.eval()(x)
    for mine, theirs, c in zip(features, peer_features(peer, ours.names, x), (96, 192, 384, 768), strict=True):
        theirs = theirs.permute(0, 3, 1, 2) if name == "swin_t" else theirs
        assert mine.shape[1] == c
        assert relative(mine, theirs) <= 1e-5


@pytest.mark.parametrize(
    ("name", "norm", "count"),  # systems.md, section 4
    [
        ("resnet50", "batch", 23_508_032),
        ("resnet50", "frozen", 23_454_912),
        ("resnet101", "batch", 42_500_160),
        ("resnet101", "frozen", 42_394_816),
    ],
)
def test_parameter_counts(name: str, norm: str, count: int) -> None:
    with torch.device("meta"):
        body = Torchvision(name, norm=norm, frozen_stages=0).build()  # type: ignore[arg-type]
    assert sum(p.numel() for p in body.parameters()) == count


@pytest.mark.parametrize("trainable", range(6))
def test_frozen_stages_match_torchvision(trainable: int) -> None:
    """torchvision counts the trainable stages (5 at most), foveal the frozen ones."""
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

    peer = _resnet_fpn_extractor(torchvision.models.resnet18(), trainable)
    expected = {n for n, p in peer.body.named_parameters() if p.requires_grad}
    ours = Torchvision("resnet18", norm="batch", frozen_stages=5 - trainable).build()
    mine = {n for n, p in ours.named_parameters() if p.requires_grad}
    assert mine == expected


@pytest.mark.parametrize("trainable", [1, 3, 6])
def test_mobilenet_detection_form(trainable: int) -> None:
    from torchvision.models.detection.backbone_utils import _mobilenet_extractor

    network = torchvision.models.mobilenet_v3_large()
    peer = _mobilenet_extractor(network, True, trainable)
    expected = {"features." + n for n, p in peer.body.named_parameters() if p.requires_grad}
    # torchvision counts the last convolution as a stage of its own; we have five stages, by stride
    frozen = {6: 0, 3: 3, 1: 5}[trainable]
    ours = Torchvision(
        "mobilenet_v3_large", returns=("features.13", "features.16"), frozen_stages=frozen, norm="batch", eps=1e-5
    ).build()
    assert ours.channels == (160, 960)
    assert ours.strides == (32, 32)
    mine = {n for n, p in ours.named_parameters() if p.requires_grad}
    assert mine == (expected if trainable > 1 else set())
    assert {m.eps for m in ours.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}


def test_c4_ends_after_layer3() -> None:
    ours = Torchvision("resnet18", returns=("layer3",)).build()
    assert (ours.channels, ours.strides) == ((256,), (16,))
    assert not any(k.startswith(("layer4", "fc")) for k in ours.state_dict())


def test_default_levels_leave_out_what_is_missing() -> None:
    assert Torchvision("squeezenet1_0").build(levels=(3, 4, 5)).strides == (8, 16)
    assert Torchvision("resnet18").build(levels=(3, 4, 5)).strides == (8, 16, 32)


def test_returned_maps_are_not_overwritten() -> None:
    """A layer before an in-place ReLU can be returned: VGG's conv5_3 keeps its negative values."""
    ours = Torchvision("vgg11", returns=("features.18", "features.19")).build()
    with torch.no_grad():
        before, after = ours(sample_image(64))
    assert float(before.min()) < 0
    assert torch.equal(before.relu(), after)


# ------------------------------------------------------------------------------------------------- frozen norm
def frozen_pair() -> tuple[Backbone, nn.Module]:
    """Ours with the norms inside the weights, and torchvision's with plain ``FrozenBatchNorm2d``; the same weights."""
    ours = Torchvision("resnet18", frozen_stages=1).build()
    shake(ours)
    peer = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    peer.load_state_dict(ours.state_dict(), strict=False)
    for n, p in peer.named_parameters():
        p.requires_grad_(not n.startswith("conv1"))
    return ours, IntermediateLayerGetter(peer, {f"layer{i}": str(i) for i in range(1, 5)})


def test_fused_norm_has_the_same_values_and_gradients() -> None:
    """In double precision, where rounding cannot flip a ReLU."""
    ours, peer = (m.double() for m in frozen_pair())
    assert all(isinstance(m, FrozenConv) for m in ours.modules() if isinstance(m, nn.Conv2d))
    x = sample_image(64).double()
    mine, theirs = ours(x), list(peer(x).values())
    for a, b in zip(mine, theirs, strict=True):
        assert relative(a, b) <= 1e-12
    sum((f * f).mean() for f in mine).backward()  # type: ignore[union-attr]
    sum((f * f).mean() for f in theirs).backward()
    gradients = {n: p.grad for n, p in peer.named_parameters()}
    for name, p in ours.named_parameters():
        if name.startswith("conv1"):
            assert p.grad is None
        else:
            assert relative(p.grad, gradients[name]) <= 1e-12, name  # type: ignore[arg-type]


def test_fused_keys_match_torchvision() -> None:
    ours, peer = frozen_pair()
    assert set(ours.state_dict()) == set(peer.state_dict())


def test_fused_norm_follows_loaded_state_and_copies() -> None:
    ours, _ = frozen_pair()
    x = sample_image(64)
    other = copy.deepcopy(ours)
    with torch.no_grad():
        first = ours.eval()(x)[0]
        other.bn1.bias.add_(1.0)  # type: ignore[union-attr]
        changed = other.eval()(x)[0]
        assert torch.equal(ours(x)[0], first)  # the copy has norms of its own
        ours.load_state_dict(other.state_dict())
        assert torch.equal(ours(x)[0], changed)
    assert relative(changed, first) > 1e-2


def test_unfused_norm_in_low_precision_keeps_its_type() -> None:
    norm = FrozenBatchNorm(4)
    assert norm(torch.ones(1, 4, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_counter_of_trained_norm_is_ignored() -> None:
    norm, trained = FrozenBatchNorm(4), nn.BatchNorm2d(4)
    shake(trained)
    norm.load_state_dict(trained.state_dict())
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(norm(x), trained.eval()(x))


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_eps_of_the_spec_reaches_every_norm(eps: float) -> None:
    body = Torchvision("resnet18", eps=eps).build()
    assert {m.eps for m in body.modules() if isinstance(m, FrozenBatchNorm)} == {eps}


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_fold_is_the_same_function(norm: str) -> None:
    body = Torchvision("resnet18", norm=norm).build()  # type: ignore[arg-type]
    shake(body)
    folded = fold_norms(body)
    x = sample_image(64)
    with torch.no_grad():
        for a, b in zip(folded(x), body.eval()(x), strict=True):
            assert relative(a, b) <= 1e-5
    assert not any(isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm)) for m in folded.modules())
    assert all(m.bias is not None for m in folded.modules() if isinstance(m, nn.Conv2d))
    assert not any(p.requires_grad for p in folded.parameters())
    assert any(p.requires_grad for p in body.parameters())


def test_fold_leaves_norms_that_follow_no_convolution() -> None:
    """DenseNet normalizes before its convolutions."""
    body = Torchvision("densenet121", frozen_stages=0).build()
    shake(body)
    folded = fold_norms(body)
    assert any(isinstance(m, FrozenBatchNorm) for m in folded.modules())
    with torch.no_grad():
        for a, b in zip(folded(sample_image(64)), body.eval()(sample_image(64)), strict=True):
            assert relative(a, b) <= 1e-5


def test_fuse_keeps_a_bias_before_the_norm() -> None:
    conv, norm = nn.Conv2d(3, 5, 3), FrozenBatchNorm(5)
    shake(norm)
    x = sample_image(32)
    plain = norm(conv(x))
    block = nn.Sequential(conv, norm)
    fuse_frozen(block)
    torch.testing.assert_close(block(x), plain, rtol=1e-4, atol=1e-5)


def test_group_norm_takes_32_groups_or_fewer() -> None:
    assert [make_norm("group", c).num_groups for c in (256, 48, 24, 5)] == [32, 16, 8, 1]  # type: ignore[union-attr]
    block = nn.Sequential(nn.Conv2d(3, 64, 1), nn.BatchNorm2d(64))
    replace_norms(block, "group")
    assert isinstance(block[1], nn.GroupNorm)


def test_autocast_stays_in_low_precision() -> None:
    body = Torchvision("resnet18", returns=(2, 3)).build()
    with torch.autocast("cpu", torch.bfloat16):
        frozen, trained = body(sample_image(64))
    assert frozen.dtype == trained.dtype == torch.bfloat16
    assert not frozen.requires_grad  # nothing is stored for a backward pass through the two frozen stages
    trained.float().sum().backward()
    assert {n.split(".")[0] for n, p in body.named_parameters() if p.grad is not None} == {"layer2"}


# ------------------------------------------------------------------------------------------------------ weights
def test_real_squeezenet_features(data: Path) -> None:
    spec = Torchvision(
        "squeezenet1_0", weights=str(data / "weights/torch/squeezenet1_0-deepcompression.pth"), frozen_stages=0
    )
    body = spec.build()
    spec.load_pretrained(body)
    reference = np.load(data / "weights/reference/squeezenet1_0.npz")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    photos = [k.removeprefix("input_") for k in reference.files if k.startswith("input_")]
    assert photos
    for photo in photos:
        x = ((torch.from_numpy(reference[f"input_{photo}"]) / 255 - mean) / std).permute(2, 0, 1)[None]
        with torch.no_grad():
            features = body.eval()(x)[-1]
        expected = torch.from_numpy(reference[f"features_{photo}"]).reshape(features.shape)
        assert relative(features, expected) <= 1e-5


def test_building_reads_no_file() -> None:
    spec = Torchvision("resnet18", weights="nowhere.pth")
    body = spec.build()
    with pytest.raises(FovealError, match=r"nowhere\.pth.*no such file"):
        spec.load_pretrained(body)


def test_wrong_network_is_rejected_by_name_without_changing_the_module(tmp_path: Path) -> None:
    file = tmp_path / "r34.pth"
    torch.save(torchvision.models.resnet34().state_dict(), file)
    body = Torchvision("resnet18").build()
    before = copy.deepcopy(body.state_dict())
    with pytest.raises(
        FovealError, match=r"r34\.pth.*does not fit resnet18.*unexpected layer1\.2\.conv1\.weight.*more"
    ):
        Torchvision("resnet18").load_pretrained(body, file)
    assert all(torch.equal(before[k], v) for k, v in body.state_dict().items())
    deeper = Torchvision("resnet34").build()
    torch.save(torchvision.models.resnet18().state_dict(), file)
    with pytest.raises(FovealError, match=r"missing layer1\.2\.conv1\.weight"):
        Torchvision("resnet34").load_pretrained(deeper, file)


def test_nonfinite_weights_are_rejected(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = math.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(FovealError, match=r"not finite layer1\.0\.conv1\.weight"):
        Torchvision("resnet18").load_pretrained(Torchvision("resnet18").build(), tmp_path / "nan.pth")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (Torchvision("resnet5"), "Did you mean resnet50"),
        (Torchvision("vit_b_16"), "not one of torchvision's convolutional"),
        (Torchvision("resnet18", returns=("layer5",)), "Did you mean layer4"),
        (Torchvision("resnet18", returns=(7,)), "no layer 7.*levels 1, 2, 3, 4, 5"),
        (Torchvision("resnet18", returns=()), "at least one"),
        (Torchvision("resnet18", returns=("layer4", 5)), "each once"),
        (Torchvision("resnet18", returns=("conv1",)), "no layer 'conv1'"),  # its norm comes next
        (Torchvision("squeezenet1_0", frozen_stages=5), "4 stages"),
    ],
)
def test_wrong_specs(spec: Torchvision, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        spec.build()


def test_wrong_values() -> None:
    with pytest.raises(UsageError, match="norm 'layer'"):
        Torchvision(norm="layer")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch norm"):
        Torchvision(norm="group", weights="x.pth")
    with pytest.raises(UsageError, match="0 or more"):
        Torchvision(frozen_stages=-1)


def test_strides_in_the_1x1_convolutions() -> None:
    """MSRA's form: the same keys and sizes, another function; other networks have no such convolution."""
    plain, moved = (Torchvision("resnet50", stride_in_1x1=one).build().eval() for one in (False, True))
    moved.load_state_dict(plain.state_dict())
    blocks = [m for m in moved.modules() if type(m).__name__ == "Bottleneck"]
    assert [b.conv1.stride for b in blocks if b.conv1.stride != (1, 1)] == [(2, 2)] * 3
    assert all(b.conv2.stride == (1, 1) for b in blocks)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        first, second = plain(x), moved(x)
    assert [m.shape for m in first] == [m.shape for m in second] and not torch.allclose(first[-1], second[-1])
    with pytest.raises(UsageError, match="resnet18 has no 1 x 1 convolution"):
        Torchvision("resnet18", stride_in_1x1=True).build()
