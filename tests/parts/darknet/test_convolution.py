"""Convolutions of a cfg by hand: dilation, unlike strides, blur, binary and shared weights, norms of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import FovealError
from foveal.parts.darknet.cfg_graph import read_net
from foveal.parts.darknet.convolution import BinaryConv
from foveal.parts.darknet.module import DarknetNetwork
from foveal.parts.darknet.weights import read_darknet, write_darknet
from foveal.parts.layers.norms import fold_norms

NET = "[net]\nwidth=8\nheight=8\n"
CONV = "[convolutional]\nbatch_normalize=1\nfilters=4\nsize=3\nstride=1\npad=1\nactivation=leaky\n"
PLAIN = "[convolutional]\nfilters=4\nsize=3\nstride=1\npad=1\nactivation=linear\n"


def network_of(layers: str) -> DarknetNetwork:
    torch.manual_seed(0)
    net = read_net(NET + layers)
    network = DarknetNetwork(net, [len(net.layers) - 1]).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1, 1)
            nn.init.uniform_(module.bias, -1, 1)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return network


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_dilation_and_unlike_strides(x: Tensor) -> None:
    network = network_of(PLAIN.replace("pad=1", "pad=1\ndilation=2"))
    conv = network.layers[0][0]  # type: ignore[index]
    torch.testing.assert_close(network(x)[0], F.conv2d(x, conv.weight, conv.bias, padding=2, dilation=2))
    assert read_net(NET + PLAIN.replace("size=3", "size=1\ndilation=3")).layers[0].shape == (4, 8, 8)  # without effect
    network = network_of(PLAIN.replace("stride=1", "stride_x=1\nstride_y=2"))
    assert network(x)[0].shape[2:] == (4, 8)


@torch.no_grad()
def test_antialiasing(x: Tensor) -> None:
    """A convolution of stride 1, its activation, then a 3 x 3 binomial filter with the stride, or means of 2 x 2."""
    network = network_of(CONV.replace("stride=1", "stride=2\nantialiasing=1"))
    conv, norm = network.layers[0][:2]  # type: ignore[index]
    y = F.leaky_relu(norm(conv(x)), 0.1)
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    torch.testing.assert_close(network(x)[0], F.conv2d(y, kernel.expand(4, 1, 3, 3), stride=2, padding=1, groups=4))
    torch.testing.assert_close(fold_norms(network)(x)[0], network(x)[0], rtol=1e-4, atol=1e-4)
    mean = network_of(CONV.replace("stride=1", "stride=2\nantialiasing=2"))
    conv, norm = mean.layers[0][:2]  # type: ignore[index]
    torch.testing.assert_close(mean(x)[0], F.avg_pool2d(F.leaky_relu(norm(conv(x)), 0.1), 2))


def test_binary_convolutions(x: Tensor) -> None:
    """XNOR: weights are plus or minus the mean size of their filter, inputs plus or minus 1; gradients pass."""
    network = network_of(CONV.replace("pad=1", "pad=1\nxnor=1\ngroups=3\nbin_output=1"))
    conv, norm = network.layers[0][:2]  # type: ignore[index]
    assert isinstance(conv, BinaryConv) and conv.binary_input and conv.groups == 1
    weight = conv.weight.abs().mean((1, 2, 3), keepdim=True) * torch.where(conv.weight > 0, 1.0, -1.0)
    signs = torch.where(x > 0, 1.0, -1.0)
    expected = F.leaky_relu(norm(F.conv2d(signs, weight, padding=1)), 0.1)
    torch.testing.assert_close(network(x)[0], expected)
    with torch.no_grad():
        torch.testing.assert_close(fold_norms(network)(x)[0], expected, rtol=1e-4, atol=1e-4)
    network(x.requires_grad_())[0].square().sum().backward()
    assert conv.weight.grad is not None and conv.weight.grad.abs().sum() > 0
    assert x.grad is not None and torch.equal(x.grad == 0, (x.grad == 0) & (x.abs() > 1) | (x.grad == 0))
    weights_only = network_of(CONV.replace("pad=1", "pad=1\nbinary=1")).layers[0][0]  # type: ignore[index]
    assert isinstance(weights_only, BinaryConv) and not weights_only.binary_input


def test_shared_parameters(x: Tensor, tmp_path: Path) -> None:
    """``share_index``: the parameters of an earlier layer, with its own dilation; in files they are stored once."""
    three = CONV.replace("=4", "=3", 1)
    layers = three + three.replace("pad=1", "pad=1\ndilation=2\nshare_index=-1")
    layers += three.replace("leaky", "linear\nshare_index=1")
    network, net = network_of(layers), read_net(NET + layers)
    assert [layer.floats for layer in net.layers] == [3 * 27 + 12, 0, 0]
    assert not [key for key in network.state_dict() if not key.startswith("layers.0.")]
    conv, norm = network.layers[0][:2]  # type: ignore[index]
    with torch.no_grad():
        first = F.leaky_relu(norm(conv(x)), 0.1)
        second = F.leaky_relu(norm(F.conv2d(first, conv.weight, padding=2, dilation=2)), 0.1)
        third = norm(F.conv2d(second, conv.weight, padding=1))
        torch.testing.assert_close(network(x)[0], third)
        torch.testing.assert_close(fold_norms(network)(x)[0], third, rtol=1e-4, atol=1e-4)
    write_darknet(tmp_path / "x.weights", net, network.state_dict())
    assert read_darknet(tmp_path / "x.weights", net)[1].keys() <= network.state_dict().keys()
    network.train()(x)[0].sum().backward()
    assert conv.weight.grad is not None
    for setting, words in (
        ("share_index=7", "share_index names layer 7, which is not before it"),
        ("share_index=0", r"differs from the convolution of line 4, whose parameters it has"),
        ("share_index=1", r"share_index names layer 1, a \[maxpool\]"),
    ):
        with pytest.raises(FovealError, match=words):
            read_net(NET + CONV + "[maxpool]\nsize=1\nstride=1\n" + CONV + setting)


@torch.no_grad()
def test_norms_and_activations_of_their_own(x: Tensor, tmp_path: Path) -> None:
    layers = "[batchnorm]\n[activation]\nactivation=swish\n"
    network, net = network_of(layers), read_net(NET + layers)
    norm = network.layers[0]
    torch.testing.assert_close(network(x)[0], F.silu(norm(x)))
    write_darknet(tmp_path / "x.weights", net, network.state_dict())
    _, state = read_darknet(tmp_path / "x.weights", net)
    assert [tuple(value.shape) for value in state.values()] == [(3,)] * 4 and next(iter(state)) == "layers.0.bias"
    assert torch.equal(state["layers.0.running_var"], norm.running_var)  # type: ignore[arg-type]


def test_onlyforward_stops_gradients(x: Tensor) -> None:
    network = network_of(CONV + "[route]\nlayers=0\nonlyforward=1\n" + CONV)
    network(x)[0].sum().backward()
    first, last = network.layers[0][0], network.layers[2][0]  # type: ignore[index]
    assert first.weight.grad is None and last.weight.grad is not None


def test_logits_without_the_activation(x: Tensor) -> None:
    net = read_net(NET + PLAIN.replace("linear", "logistic"))
    torch.manual_seed(0)
    with_it = DarknetNetwork(net, [0]).eval()
    without = DarknetNetwork(net, [0], raw=[0]).eval()
    without.load_state_dict(with_it.state_dict())
    torch.testing.assert_close(without(x)[0].sigmoid(), with_it(x)[0])
