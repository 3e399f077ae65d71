"""The head of R-CNN and SPP-Net: classes from the fully connected layers, boxes from the features before them."""

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
from .roi import FullyConnected, Predictor, PredictorLayers, connected_layers, has_connected_layers


@dataclass(frozen=True)
class RCNNHead:
    """Fully connected layers with ReLU and dropout. Boxes are not moved until a stage fits ``predictor.bbox_pred``."""

    width: int = 4096
    depth: int = 2  # 0: classes are predicted from the map itself
    dropout: float = 0.5
    bias: float | None = None  # initial biases of the layers (SPP-Net: 1); None: PyTorch's default
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
        """For maps (channels, side, side): the pooled ones, or those that ``backbone`` computes from pooled crops."""
        length = channels * side * side
        trunk = FullyConnected(length, self.width, self.depth, self.dropout) if self.depth else nn.Flatten()
        for layer in trunk.children():
            if self.bias is not None and isinstance(layer, nn.Linear):
                nn.init.constant_(layer.bias, self.bias)
        vector = self.width if self.depth else length
        predictor = PredictorLayers(self.predictor, vector, logits, classes, bias, box_inputs=length)
        return RCNNHeadLayers(trunk, predictor, backbone, side)

    def load_pretrained(self, head: RCNNHeadLayers, path: str | Path) -> None:
        """Reads the fully connected layers of a network's file, where it has layers of this size.

        CaffeNet, VGG and torchvision's AlexNet have two; other networks have none, and the layers stay random.
        """
        if is_darknet(path):
            return
        state, pretrained = head.trunk.state_dict(), connected_layers(read_state(path, has_connected_layers))
        if state and all(key in pretrained and pretrained[key].shape == value.shape for key, value in state.items()):
            load_state(head.trunk, {k: pretrained[k] for k in state}, path=path, what="the fully connected layers")


class RCNNHeadLayers(nn.Module):
    """RoIs (B * P, c, h, w) -> ``Predictions`` of logits (B, P, K) and deltas (B, P, C, 4).

    With a ``backbone`` the RoIs are crops of pixels, and classes and boxes are predicted from its last map, averaged to
    ``side`` x ``side`` cells where it has another size (as torchvision's AlexNet and VGG do).
    """

    def __init__(self, trunk: nn.Module, predictor: PredictorLayers, backbone: nn.Module | None, side: int) -> None:
        super().__init__()
        if backbone is not None:
            self.backbone = backbone
        self.crops, self.side = backbone is not None, side
        self.trunk, self.predictor = trunk, predictor

    def split_features(self, rois: Tensor) -> tuple[Tensor, Tensor]:
        """RoIs (R, c, h, w) -> the features of the class layer (R, width), and of the box layer (R, c h w)."""
        x = F.adaptive_avg_pool2d(self.backbone(rois)[-1], self.side) if self.crops else rois
        return self.trunk(x), x.flatten(1)

    def forward(self, rois: Tensor, batch: int) -> Predictions:
        logits, deltas = self.predictor(*self.split_features(rois))
        return Predictions(logits.unflatten(0, (batch, -1)), deltas.unflatten(0, (batch, -1)))
