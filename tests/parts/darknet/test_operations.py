"""Layers without convolutions by hand: sums of unlike maps, products, pools, reorg3d."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foveal.errors import FovealError
from foveal.parts.darknet.cfg_graph import read_net
from foveal.parts.darknet.module import DarknetNetwork
from foveal.parts.darknet.operations import Reorg3dModule, ShortcutModule
from foveal.parts.darknet.routes import Shortcut

NET = "[net]\nwidth=8\nheight=8\n"
SAME = "[maxpool]\nsize=1\nstride=1\n"  # the identity, as a layer to refer to


def outputs(layers: str, x: Tensor) -> Tensor:
    net = read_net(NET + layers)
    network = DarknetNetwork(net, [len(net.layers) - 1]).eval()
    with torch.no_grad():
        (out,) = network(x)
    assert tuple(out.shape[1:]) == net.layers[-1].shape
    return out


def counting(c: int = 3, side: int = 8) -> Tensor:
    return torch.arange(float(c * side * side)).view(1, c, side, side)


# ------------------------------------------------------------------------------------------------------- sums
def test_shortcuts_add_the_common_channels() -> None:
    """``shortcut_multilayer_cpu``: the output has the width of the layer before; a narrow map reaches its first
    channels, of a wide one only as many count."""
    x = counting()
    two = "[route]\nlayers=0\ngroups=3\ngroup_id=2\n"  # one channel: the last
    narrow = outputs(SAME + two + SAME.replace("[", "[") + "[shortcut]\nfrom=0\n", x)
    assert torch.equal(narrow, x[:, 2:] + x[:, :1])
    wide = outputs(SAME + two + "[route]\nlayers=0\n[shortcut]\nfrom=1\n", x)
    assert torch.equal(wide[:, :1], x[:, :1] + x[:, 2:]) and torch.equal(wide[:, 1:], x[:, 1:])
    three = outputs(SAME + SAME + SAME + "[shortcut]\nfrom=0,-2\nactivation=linear\n", x)
    assert torch.equal(three, 3 * x)


def test_shortcuts_of_other_sizes_take_every_kth_pixel() -> None:
    """``shortcut_cpu`` of the first Darknet, in resnet50.cfg: rows and columns 0, k, 2 k, ... of the larger map."""
    x = counting()
    half = "[maxpool]\nsize=2\nstride=2\n"
    pooled = outputs(SAME + half, x)
    down = outputs(SAME + half + "[shortcut]\nfrom=0\n", x)
    assert torch.equal(down, pooled + x[:, :, ::2, ::2])
    up = outputs(SAME + half + "[route]\nlayers=0\n[shortcut]\nfrom=1\n", x)
    assert torch.equal(up[:, :, ::2, ::2], x[:, :, ::2, ::2] + pooled)
    assert torch.equal(up[:, :, 1::2], x[:, :, 1::2])


@pytest.mark.parametrize(
    ("kind", "norm", "expected"),
    [
        ("layer", "", (2.0, 3.0)),
        ("layer", "relu", (2 / 5.0001, 3 / 5.0001)),
        ("layer", "softmax", (math.exp(-1) / (1 + math.exp(-1) + 1e-4), 1 / (1 + math.exp(-1) + 1e-4))),
        ("channel", "", (2.0, 3.0)),
    ],
)
def test_weighted_shortcuts(kind: str, norm: str, expected: tuple[float, float]) -> None:
    """Weights 2 and 3: sums of 1 and 10 times them, or of them by their sum + 0.0001 as Darknet normalizes."""
    module = ShortcutModule(Shortcut((0,), "linear", kind, norm), channels=2)  # type: ignore[arg-type]
    assert module.weight is not None and tuple(module.weight.shape) == (2, 2 if kind == "channel" else 1)
    module.weight.data = torch.tensor([2.0, 3.0])[:, None].expand_as(module.weight).clone()
    y = module(torch.ones(1, 2, 1, 1), torch.full((1, 1, 1, 1), 10.0)).flatten()
    assert y.tolist() == pytest.approx([expected[0] + 10 * expected[1], expected[0]], rel=1e-5)


def test_weighted_shortcuts_are_counted() -> None:
    one = "[shortcut]\nfrom=-2\nweights_type=per_feature\nweights_normalization=softmax\n"
    net = read_net(NET + SAME + SAME + one + one.replace("per_feature", "per_channel"))
    assert [layer.floats for layer in net.layers] == [0, 0, 2, 6]
    with pytest.raises(FovealError, match=r"line 12 .*weights_type is 'each'\. Use one of none, per_feature"):
        read_net(NET + SAME + SAME + one.replace("per_feature", "each"))


# --------------------------------------------------------------------------------------------------- products
def test_products() -> None:
    x = counting() / 100
    sam = outputs(SAME + "[activation]\nactivation=logistic\n[sam]\nfrom=0\n", x)
    torch.testing.assert_close(sam, x * x.sigmoid())
    scaled = outputs(SAME + "[avgpool]\n[scale_channels]\nfrom=0\nactivation=relu\n", x)
    torch.testing.assert_close(scaled, x * x.mean((2, 3), keepdim=True))
    one = "[route]\nlayers=0\ngroups=3\ngroup_id=1\n"
    pixels = outputs(SAME + one + "[scale_channels]\nfrom=0\nscale_wh=1\n", x)
    torch.testing.assert_close(pixels, x * x[:, 1:2])
    with pytest.raises(FovealError, match=r"multiplies 3 x 8 x 8 \(from\) by 3 x 8 x 8, expected 3 x 1 x 1"):
        read_net(NET + SAME + SAME + "[scale_channels]\nfrom=0\n")
    with pytest.raises(FovealError, match=r"by 3 x 1 x 1, expected 3 x 8 x 8"):
        read_net(NET + SAME + "[avgpool]\n[sam]\nfrom=0\n")


def test_an_activation_leaves_its_input_alone() -> None:
    x = counting() - 50
    both = outputs(SAME + "[activation]\nactivation=leaky\n[route]\nlayers=0,1\n", x)
    assert torch.equal(both[:, :3], x) and torch.equal(both[:, 3:], torch.where(x > 0, x, 0.1 * x))


# ------------------------------------------------------------------------------------------------------- pools
def test_maxima_over_channels() -> None:
    """``maxpool_depth``: output g is the maximum of channels g, g + n, g + 2 n, ..."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y = outputs("[maxpool]\nmaxpool_depth=1\nout_channels=2\nsize=1\nstride=1\n", x)
    assert torch.equal(y[:, 0], torch.maximum(x[:, 0], x[:, 2])) and torch.equal(y[:, 1], x[:, 1])
    with pytest.raises(FovealError, match="out_channels is 4, more than the 3 of its input"):
        read_net(NET + "[maxpool]\nmaxpool_depth=1\nout_channels=4\n")
    assert read_net(NET + "[maxpool]\nsize=2\nstride=2\nout_channels=4\n").layers[0].shape == (
        3,
        4,
        4,
    )  # without effect


def test_pools_with_unlike_strides() -> None:
    """Darknet pads size - 1 pixels in total: (8 + 1 - 2) / 2 + 1 = 4 rows, (8 + 1 - 2) / 1 + 1 = 8 columns."""
    y = outputs("[maxpool]\nsize=2\nstride_y=2\nstride_x=1\n", counting())
    assert y[0, 0, 0].tolist() == [9, 10, 11, 12, 13, 14, 15, 15]
    assert y[0, 0, :, 0].tolist() == [9, 25, 41, 57]


def test_local_means_count_existing_pixels() -> None:
    """Size 3, stride 2, padding 2 in total, one pixel left and above: windows begin at -1, 1, 3, 5."""
    x = counting(side=8)
    y = outputs("[local_avgpool]\nsize=3\nstride=2\n", x)
    assert y.shape[2:] == (4, 4)
    assert y[0, 0, 0, 0] == pytest.approx((0 + 1 + 8 + 9) / 4)
    assert y[0, 0, 1, 1] == pytest.approx(float(x[0, 0, 1:4, 1:4].mean()))
    even = outputs("[local_avgpool]\nsize=4\nstride=4\n", x)  # padding 3: one pixel before, two behind
    assert even[0, 0, 0, 0] == pytest.approx(float(x[0, 0, :3, :3].mean()))


def test_blurred_pools() -> None:
    """``antialiasing=1``: the pool at stride 1, then 1 2 1 by 1 2 1 over 16 with the stride; 2: means of 2 x 2."""
    x = counting()
    pooled = outputs("[maxpool]\nsize=2\nstride=1\n", x)
    y = outputs("[maxpool]\nsize=2\nstride=2\nantialiasing=1\n", x)
    assert y.shape[2:] == (4, 4)
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    assert y[0, 1, 1, 1] == pytest.approx(float((pooled[0, 1, 1:4, 1:4] * kernel).sum()))
    mean = outputs("[maxpool]\nsize=2\nstride=2\nantialiasing=2\n", x)
    assert mean[0, 1, 1, 2] == pytest.approx(float(pooled[0, 1, 2:4, 4:6].mean()))


def test_softmax_with_a_temperature() -> None:
    x = counting()[:, :, :1, :1].expand(1, 3, 8, 8) / 64
    y = outputs("[avgpool]\n[softmax]\ngroups=1\ntemperature=2\n", x).flatten()
    assert y.tolist() == pytest.approx((torch.tensor([0.0, 1, 2]) / 2).softmax(0).tolist())


# ------------------------------------------------------------------------------------------------------ reorg3d
def test_reorg3d_is_darknets_order() -> None:
    """``reorg_cpu`` with the shape of the output: out[k, j, i] = x[k mod c, s j + k / c / s, s i + k / c mod s]."""
    c, h, w, s = 3, 4, 6, 2
    x = torch.randn(2, c, h, w)
    expected = torch.empty(2, c * s * s, h // s, w // s)
    for k in range(c * s * s):
        for j in range(h // s):
            for i in range(w // s):
                expected[:, k, j, i] = x[:, k % c, j * s + k // c // s, i * s + k // c % s]
    found = Reorg3dModule(read_net(NET + "[reorg3d]\nstride=2\n").layers[0].what)(x)  # type: ignore[arg-type]
    assert torch.equal(found, expected)
    back = Reorg3dModule(read_net(NET + SAME + "[reorg3d]\n[reorg3d]\nstride=1\nreverse=1\n").layers[2].what)  # type: ignore[arg-type]
    back.stride = 2
    assert torch.equal(back(found), x)
    net = read_net(NET + "[reorg3d]\nstride=2\n[reorg3d]\nstride=2\nreverse=1\n")
    assert [layer.shape for layer in net.layers] == [(12, 4, 4), (3, 8, 8)]
