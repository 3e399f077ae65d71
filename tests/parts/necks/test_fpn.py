"""FPN against torchvision's with the same weights."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from foveal.errors import UsageError
from foveal.parts.necks.fpn import FPN, Identity, SingleLevel

CHANNELS, STRIDES = (8, 16, 24), (8, 16, 32)


def maps(sizes: tuple[tuple[int, int], ...] = ((25, 19), (13, 10), (7, 5))) -> list[Tensor]:
    rng = torch.Generator().manual_seed(3)
    return [torch.randn(2, c, h, w, generator=rng) for c, (h, w) in zip(CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("extra", [None, "pool", "p6p7-c5", "p6p7-p5"])
def test_same_as_torchvision(extra: str | None, norm: str | None) -> None:
    width = 12
    blocks = {
        None: None,
        "pool": LastLevelMaxPool(),
        "p6p7-c5": LastLevelP6P7(CHANNELS[-1], width),
        "p6p7-p5": LastLevelP6P7(width, width),
    }
    peer = FeaturePyramidNetwork(list(CHANNELS), width, blocks[extra], nn.BatchNorm2d if norm else None)
    ours = FPN(width, extra=extra, norm=norm).build(CHANNELS, STRIDES)  # type: ignore[arg-type]
    ours.load_state_dict(peer.state_dict())  # strictly: the keys are the same
    x = maps()
    mine = ours(x)
    theirs = list(peer(OrderedDict((str(i), f) for i, f in enumerate(x))).values())
    assert len(mine) == len(theirs) == len(ours.channels) == len(ours.strides)
    for a, b, c in zip(mine, theirs, ours.channels, strict=True):
        assert a.shape[1] == c
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("extra", "strides"), [("pool", (8, 16, 32, 64)), ("p6p7-c5", (8, 16, 32, 64, 128))])
def test_declared_strides(extra: str, strides: tuple[int, ...]) -> None:
    assert FPN(12, extra=extra).build(CHANNELS, STRIDES).strides == strides  # type: ignore[arg-type]


def test_starting_weights_have_variance_one_over_fan_in() -> None:
    layer = FPN(256).build((256,), (32,)).layer_blocks[0][0]  # type: ignore[index]
    assert float(layer.weight.detach().var()) * 256 * 9 == pytest.approx(1, rel=0.02)  # type: ignore[operator, union-attr]
    assert not layer.bias.any()  # type: ignore[operator, union-attr]


def test_identity_and_single_level() -> None:
    x = maps()
    whole = Identity().build(CHANNELS, STRIDES)
    assert (whole.channels, whole.strides) == (CHANNELS, STRIDES)
    assert all(a is b for a, b in zip(whole(x), x, strict=True))
    last = SingleLevel().build(CHANNELS, STRIDES)
    assert (last.channels, last.strides) == ((24,), (32,))
    assert last(x)[0] is x[2]
    assert SingleLevel(0).build(CHANNELS, STRIDES).strides == (8,)
    with pytest.raises(UsageError, match="index is 3, but the backbone returns"):
        SingleLevel(3).build(CHANNELS, STRIDES)


def test_unknown_extra() -> None:
    with pytest.raises(UsageError, match="'p6'"):
        FPN(extra="p6")  # type: ignore[arg-type]


def test_p7_without_relu() -> None:
    maps = [torch.randn(1, 8, 16, 16), torch.randn(1, 8, 8, 8)]
    plain, linear = (FPN(4, extra="p6p7-c5", p7_relu=one).build((8, 8), (8, 16)) for one in (True, False))
    linear.load_state_dict(plain.state_dict())
    first, second = plain(maps), linear(maps)
    assert torch.equal(first[-2], second[-2])
    torch.testing.assert_close(second[-1], plain.extra_blocks.p7(first[-2]))
    assert not torch.allclose(first[-1], second[-1])
