"""The head of R-CNN and SPP-Net: classes from the connected layers' vector, boxes from the map before them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError
from ...types import Predictions
from ...weights.open import read_state
from ...weights.state import load_state
from ..darknet.weights import is_darknet
from .roi import FullyConnected, Predictor, PredictorLayers, connected_layers


@dataclass(frozen=True)
class RCNNHead:
    """Fully connected layers with ReLU and dropout. Nothing moves a box until a stage fits ``predictor.bbox_pred``."""

    width: int = 4096
    depth: int = 2  # 0: the classes see the map itself
    dropout: float = 0.5
    bias: float | None = None  # what the layers' biases start with (SPP-Net: 1); None: PyTorch's default
    predictor: Predictor = Predictor(cls_std=0.01, box_std=0.0)

    def __post_init__(self) -> None:
        if self.predictor.agnostic:
            raise UsageError("RCNNHead fits a box for each class", fix="Use Predictor(agnostic=False)")

    def build(
        self,
        channels: int,
        side: int,
        logits: int,
        classes: int,
        bias: float | None,
        backbone: nn.Module | None = None,
    ) -> RCNNHeadLayers:
        """For maps (channels, side, side): those that are pooled, or that ``backbone`` makes of what is pooled."""
        length = channels * side * side
        trunk = FullyConnected(length, self.width, self.depth, self.dropout) if self.depth else nn.Flatten()
        for layer in trunk.children():
            if self.bias is not None and isinstance(layer, nn.Linear):
                nn.init.constant_(layer.bias, self.bias)
        vector = self.width if self.depth else length
        predictor = PredictorLayers(self.predictor, vector, logits, classes, bias, box_inputs=length)
        return RCNNHeadLayers(trunk, predictor, backbone, side)

    def load_pretrained(self, head: RCNNHeadLayers, path: str | Path) -> None:
        """Reads the connected layers of the network whose file that is, as far as it has layers of this size.

        CaffeNet, VGG and torchvision's AlexNet have two; other networks have none, and the layers keep their start.
        """
        if is_darknet(path):
            return
        own, found = head.trunk.state_dict(), connected_layers(read_state(path))
        if own and all(key in found and found[key].shape == value.shape for key, value in own.items()):
            load_state(head.trunk, {key: found[key] for key in own}, path=path, what="the fully connected layers")


class RCNNHeadLayers(nn.Module):
    """Rows (B * P, c, h, w) -> ``Predictions`` of logits (B, P, K) and deltas (B, P, C, 4).

    With a ``backbone`` the rows are crops of pixels, and its last map, averaged to ``side`` x ``side`` cells where it
    has another size (as torchvision's AlexNet and VGG do), is what both taps begin with.
    """

    def __init__(self, trunk: nn.Module, predictor: PredictorLayers, backbone: nn.Module | None, side: int) -> None:
        super().__init__()
        if backbone is not None:
            self.backbone = backbone
        self.crops, self.side = backbone is not None, side
        self.trunk, self.predictor = trunk, predictor

    def split_features(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What the classes are predicted from (R, width), and the boxes (R, c h w)."""
        x = F.adaptive_avg_pool2d(self.backbone(rows)[-1], self.side) if self.crops else rows
        return self.trunk(x), x.flatten(1)

    def forward(self, rows: Tensor, batch: int) -> Predictions:
        logits, deltas = self.predictor(*self.split_features(rows))
        return Predictions(logits.unflatten(0, (batch, -1)), deltas.unflatten(0, (batch, -1)))
