"""The frozen layers of a network: found from its modules, run alone, and given to the rest."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from foveal.parts.backbones.base import BackboneSpec
from foveal.parts.backbones.frozen_layers import find_frozen_layers
from foveal.parts.backbones.small import SmallResNet
from foveal.parts.backbones.timm import Timm
from foveal.parts.backbones.torchvision import Torchvision


def names_of(backbone: nn.Module, layers: Sequence[nn.Module]) -> list[str]:
    names = {module: name for name, module in backbone.named_modules()}
    return [names[layer] for layer in layers]


@pytest.mark.parametrize(
    ("spec", "needed"),
    [
        (Torchvision("resnet18", frozen_stages=2), ["layer1"]),
        (Torchvision("resnet18", frozen_stages=3), ["layer2"]),  # returned, and the input of layer3
        (Torchvision("vgg11", frozen_stages=2), ["features.5"]),  # the pool after the frozen convolutions
        (Timm("tf_efficientnet_lite0", frozen_stages=2), ["network.blocks.2", "network.blocks.4"]),
    ],
    ids=lambda v: v.name if isinstance(v, Timm | Torchvision) else "-".join(v),
)
def test_the_rest_computes_the_same(spec: BackboneSpec, needed: list[str]) -> None:
    if isinstance(spec, Timm):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone: nn.Module = spec.build((3, 4, 5)).train()
    found = find_frozen_layers(backbone)
    assert found is not None and names_of(backbone, found.needed) == needed
    pixels = torch.randn(2, 3, 64, 96)
    expected = backbone(pixels)
    maps = found(pixels)
    with found.given(maps):
        given = backbone(torch.zeros(2, 3, 64, 96))  # the pixels do not matter
    assert all(torch.equal(a, b) for a, b in zip(expected, given, strict=True))
    expected[-1].sum().backward()
    gradients = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    backbone.zero_grad(set_to_none=True)
    given[-1].sum().backward()
    again = {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}
    assert again.keys() == gradients.keys() and all(torch.equal(gradients[k], g) for k, g in again.items())
    assert torch.equal(backbone(pixels)[-1], expected[-1])  # and everything is as before


class Skips(nn.Module):
    """A frozen layer, whose output two later ones use, and one that learns between frozen ones."""

    def __init__(self, chance: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.learns, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.drop = nn.Dropout(chance)
        for layer in (self.first, self.second, self.last):
            layer.requires_grad_(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        a = self.drop(self.first(x).relu_())
        b = self.second(a)
        return [a + b, self.last(self.learns(a))]


def test_maps_that_several_layers_need_are_kept() -> None:
    """A ReLU that is no module belongs to the rest: what it is applied to is needed."""
    network = Skips()
    found = find_frozen_layers(network)
    assert found is not None and names_of(network, found.layers) == ["first", "drop", "second"]
    assert names_of(network, found.needed) == ["drop", "second"]


def test_what_varies_in_training_is_not_frozen() -> None:
    network = Skips(0.5)
    found = find_frozen_layers(network)
    assert found is not None and names_of(network, found.needed) == ["first"]
    assert network.training and network.drop.training
    backbone = SmallResNet((4, 4)).build((2, 3)).requires_grad_(False)
    found = find_frozen_layers(backbone)
    assert found is not None and names_of(backbone, found.needed) == ["stem.0.0"]  # then its norm, which moves
    found = find_frozen_layers(backbone.eval())
    assert found is not None and names_of(backbone, found.needed) == ["more.0", "more.1"]
    assert find_frozen_layers(SmallResNet((4, 4)).build((2, 3))) is None


def test_later_layers_are_not_run() -> None:
    network = Skips()
    found = find_frozen_layers(network)
    assert found is not None
    calls: list[int] = []
    network.learns.register_forward_hook(lambda *args: calls.append(1))
    assert [m.shape for m in found(torch.zeros(1, 3, 8, 8))] == [(1, 4, 4, 4)] * 2 and not calls
