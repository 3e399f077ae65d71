"""RoI heads, the second stage of two-stage detectors: pooled features of a proposal -> class logits and box deltas.

Each is a ``trunk`` (pooled map -> vector) and a ``predictor`` (vector -> logits and deltas); the trunk's layers have
torchvision's names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...types import Predictions
from ...weights.open import read_state
from ...weights.state import load_network_file, load_state
from ..layers.norms import NormKind, conv_block, fuse_frozen, linear_as_conv, replace_norms

if TYPE_CHECKING:
    from torchvision.models import ResNet


@dataclass(frozen=True)
class Predictor:
    """The two last layers of an RoI head: one for classes, one for boxes."""

    cls_std: float | None = 0.01  # of the initial weights (Fast R-CNN); None: PyTorch's default, as in torchvision
    box_std: float | None = 0.001
    agnostic: bool = False  # class-agnostic: one box for all classes (R-FCN, Light-Head), not one for each

    def build(self, inputs: int, logits: int, classes: int, bias: float | None) -> PredictorLayers:
        return PredictorLayers(self, inputs, logits, classes, bias)


class PredictorLayers(nn.Module):
    """Vectors (R, c) -> logits (R, K) and deltas (R, C, 4), or (R, 4) where the box does not depend on the class.

    With ``box_inputs`` the deltas are predicted from other vectors (R, box_inputs).
    """

    def __init__(
        self,
        spec: Predictor,
        inputs: int,
        logits: int,
        classes: int,
        bias: float | None,
        box_inputs: int | None = None,
    ) -> None:
        super().__init__()
        self.agnostic = spec.agnostic
        self.cls_score = nn.Linear(inputs, logits)
        self.bbox_pred = nn.Linear(box_inputs or inputs, 4 if spec.agnostic else 4 * classes)
        for layer, std in ((self.cls_score, spec.cls_std), (self.bbox_pred, spec.box_std)):
            if std is not None:
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)
        if bias is not None:
            nn.init.constant_(self.cls_score.bias, bias)

    def forward(self, x: Tensor, boxes: Tensor | None = None) -> tuple[Tensor, Tensor]:
        deltas = self.bbox_pred(x if boxes is None else boxes)
        return self.cls_score(x), deltas if self.agnostic else deltas.unflatten(1, (-1, 4))


class RoIHead(nn.Module):
    """Pooled RoIs (B * P, c, h, w) -> ``Predictions`` of logits (B, P, K) and deltas (B, P, C, 4) or (B, P, 4)."""

    def __init__(self, trunk: nn.Module, predictor: PredictorLayers) -> None:
        super().__init__()
        self.trunk, self.predictor = trunk, predictor

    def forward(self, rois: Tensor, batch: int) -> Predictions:
        logits, deltas = self.predictor(self.trunk(rois))
        return Predictions(logits.unflatten(0, (batch, -1)), deltas.unflatten(0, (batch, -1)))


class RoIHeadSpec(ABC):
    """The role of an RoI head. Subclasses are frozen dataclasses with a field ``predictor``."""

    predictor: Predictor
    ranks: tuple[int, ...] | None = None  # of its connected layers, () for whole ones; None: they are not compressed

    def with_ranks(self, ranks: Sequence[int]) -> Self:
        """The same head with each fully connected layer as two, of these ranks."""
        known: Any = self  # every subclass is a dataclass
        return replace(known, ranks=tuple(ranks))  # type: ignore[no-any-return]

    @abstractmethod
    def trunk(self, channels: int, size: tuple[int, int]) -> tuple[nn.Module, int]:
        """The trunk for pooled maps of these channels and (h, w), and the length of its vectors."""

    def build(self, channels: int, size: tuple[int, int], logits: int, classes: int, bias: float | None) -> RoIHead:
        """For pooled maps (channels, *size), with ``logits`` and ``classes`` boxes of each RoI."""
        trunk, width = self.trunk(channels, size)
        return RoIHead(trunk, self.predictor.build(width, logits, classes, bias))

    def load_pretrained(self, head: RoIHead, path: str | Path) -> None:  # noqa: B027  most heads have nothing to load
        """Reads the trunk from the backbone's ImageNet file, where the trunk is a part of that network."""


@dataclass(frozen=True)
class RoIMLP(RoIHeadSpec):
    """Fully connected layers with ReLU (FPN, section 5.2)."""

    width: int = 1024
    depth: int = 2
    predictor: Predictor = field(default_factory=Predictor)
    ranks: tuple[int, ...] = ()  # of each layer, where it is stored as two (``foveal weights export --svd``)

    def trunk(self, channels: int, size: tuple[int, int]) -> tuple[nn.Module, int]:
        inputs = channels * size[0] * size[1]
        return FullyConnected(inputs, self.width, self.depth, ranks=self.ranks), self.width


class FullyConnected(nn.Module):
    """RoIs (R, c, h, w) -> (R, width) by layers ``fc6``, ``fc7``, ... with ReLU and dropout.

    With ``ranks`` each layer is a :class:`LowRank` one. Raises :class:`UsageError` unless there is one for each.
    """

    def __init__(self, inputs: int, width: int, depth: int, dropout: float = 0.0, ranks: tuple[int, ...] = ()) -> None:
        super().__init__()
        if ranks and (len(ranks) != depth or min(ranks) < 1):
            raise UsageError(f"ranks {ranks}: expected {depth} numbers of at least 1, or none")
        self.first = "fc6"
        for i in range(depth):
            sides = inputs if i == 0 else width, width
            self.add_module(f"fc{6 + i}", LowRank(*sides, ranks[i]) if ranks else nn.Linear(*sides))
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            if isinstance(layer, LowRank):
                x = layer.outer(self._product(name, x, layer.inner))
            else:
                x = self._product(name, x, layer)
            x = torch.relu_(x)
            if self.dropout:
                x = nn.functional.dropout(x, self.dropout, self.training)
        return x

    def _product(self, name: str, x: Tensor, layer: nn.Module) -> Tensor:
        """The input of the first layer is (R, c, h, w), of the others (R, width)."""
        return linear_as_conv(x, cast(nn.Linear, layer)) if name == self.first else layer(x)


class LowRank(nn.Module):
    """A fully connected layer of low rank as two layers: W = U_t (S_t V_t^T) (Fast R-CNN, section 3.1)."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.inner = nn.Linear(inputs, rank, bias=False)  # S_t V_t^T
        self.outer = nn.Linear(rank, outputs)  # U_t, and the layer's bias


@dataclass(frozen=True)
class RoIConv(RoIHeadSpec):
    """3 x 3 convolutions with a norm, then one fully connected layer: torchvision's v2 form of Faster R-CNN."""

    convs: int = 4
    channels: int = 256
    width: int = 1024
    norm: NormKind | None = "batch"
    predictor: Predictor = field(default_factory=Predictor)

    def trunk(self, channels: int, size: tuple[int, int]) -> tuple[nn.Module, int]:
        return ConvFC(self, channels, size), self.width


class ConvFC(nn.Sequential):
    """RoIs (R, c, h, w) -> (R, width). The keys are torchvision's: convolutions, a flatten, a linear layer, a ReLU."""

    def __init__(self, spec: RoIConv, inputs: int, size: tuple[int, int]) -> None:
        blocks = [
            conv_block(inputs if i == 0 else spec.channels, spec.channels, norm=spec.norm) for i in range(spec.convs)
        ]
        for module in (m for block in blocks for m in block.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        last = spec.channels if spec.convs else inputs
        linear = nn.Linear(last * size[0] * size[1], spec.width)
        super().__init__(*blocks, nn.Flatten(), linear, nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            if isinstance(layer, nn.Linear):
                x = linear_as_conv(x, layer)
            elif not isinstance(layer, nn.Flatten):  # the linear layer takes the map itself
                x = layer(x)
        return x


@dataclass(frozen=True)
class ResNetTail(RoIHeadSpec):
    """The last stage of a ResNet on every pooled map, then the average: the "C4" form (He et al. 2016, appendix A)."""

    name: str = "resnet50"  # the backbone's
    norm: NormKind = "frozen"
    eps: float | None = None
    predictor: Predictor = field(default_factory=Predictor)

    def trunk(self, channels: int, size: tuple[int, int]) -> tuple[nn.Module, int]:
        from ..backbones.torchvision import torchvision_network

        if not self.name.startswith(("res", "wide_resnet")):
            raise UsageError(f"{self.name} has no layer4", fix="Give ResNetTail the name of a ResNet")
        network = cast("ResNet", torchvision_network(self.name))
        tail = Tail(network.layer4)
        replace_norms(tail, self.norm, self.eps)
        fuse_frozen(tail)
        return tail, network.fc.in_features

    def load_pretrained(self, head: RoIHead, path: str | Path) -> None:
        from ..backbones.torchvision import torchvision_network

        known = torchvision_network(self.name).state_dict()
        load_network_file(head.trunk, path, known=known, what=f"{self.name} (layer4)")


class Tail(nn.Module):
    """RoIs (R, 1024, h, w) -> (R, 2048)."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x).mean((2, 3))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class VGGTail(RoIHeadSpec):
    """VGG's or CaffeNet's two fully connected layers with dropout (Fast R-CNN).

    Pool 7 x 7 to use VGG's ImageNet weights, 6 x 6 for CaffeNet's.
    """

    width: int = 4096
    dropout: float = 0.5
    predictor: Predictor = field(default_factory=Predictor)
    ranks: tuple[int, ...] = ()  # of fc6 and fc7, where they are stored as two each (``foveal weights export --svd``)

    def trunk(self, channels: int, size: tuple[int, int]) -> tuple[nn.Module, int]:
        inputs = channels * size[0] * size[1]
        return FullyConnected(inputs, self.width, 2, self.dropout, self.ranks), self.width

    def load_pretrained(self, head: RoIHead, path: str | Path) -> None:
        """Raises :class:`UsageError` where ``ranks`` are set: only a trained detector is compressed."""
        if self.ranks:
            raise UsageError(
                f"ranks={self.ranks} is for a trained detector, the weights of {path} have full rank",
                fix="Train without ranks, then foveal weights export RUN --svd RANK,RANK",
            )
        state = connected_layers(read_state(path, has_connected_layers))
        load_state(head.trunk, state, path=path, what="the two fully connected layers")


_CONNECTED = (("fc6.", "fc7."), ("classifier.0.", "classifier.3."), ("classifier.1.", "classifier.4."))


def has_connected_layers(state: Mapping[str, Tensor]) -> bool:
    return bool(connected_layers(state))


def connected_layers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The two fully connected layers of a network's file as ``fc6.weight``, ...: by Caffe's, VGG's or AlexNet's
    names."""
    for names in _CONNECTED:
        pairs = list(zip(names, _CONNECTED[0], strict=True))
        layers = {new + k[len(old) :]: v for old, new in pairs for k, v in state.items() if k.startswith(old)}
        if layers:
            return layers
    return {}
