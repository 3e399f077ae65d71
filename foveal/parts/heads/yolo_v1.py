"""YOLOv1's head: fully connected layers over the whole image that predict all grid cells at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...types import Predictions
from ..layers.darknet import SLOPE
from ..layers.local import LocallyConnected
from .dense import DenseHead


@dataclass(frozen=True)
class GridHead:
    """The map of ``side`` x ``side`` cells, flattened; a hidden layer; an output layer for all cells (YOLOv1, fig. 3).

    The hidden layer is fully connected (``hidden`` units) or ``local``: 3 x 3 filters that differ between cells, as in
    the later Darknet files. Without a connected hidden layer the output layer is initialized as a 1 x 1 convolution,
    the outputs of each cell depending on its own features alone, and can learn more. Outputs are all class scores, then
    all objectness scores, then all boxes (x, y, w, h), not cell by cell. The class scores belong to a cell and are
    shared by its boxes.
    """

    side: int = 7  # cells along each side of the image
    hidden: int | None = 4096  # units of the connected hidden layer; None: none
    local: int | None = None  # channels of a local hidden layer instead; None: none
    dropout: float = 0.5  # before the output layer

    def __post_init__(self) -> None:
        widths = [width for width in (self.hidden, self.local) if width is not None]
        if self.side < 1 or len(widths) > 1 or min(widths, default=1) < 1 or not 0 <= self.dropout < 1:
            raise UsageError(
                f"{self}: expected side, hidden and local of at least 1, not both hidden and local, dropout in [0, 1)"
            )

    def build(
        self, channels: Sequence[int], per_location: Sequence[int], logits: int, bias: float | None
    ) -> GridLayers:
        """For one level of these channels and this number of boxes a cell."""
        if len(channels) != 1 or len(per_location) != 1:
            raise UsageError(
                f"GridHead is for one level, got {len(channels)} maps and {len(per_location)} levels of cells"
            )
        return GridLayers(self, channels[0], per_location[0], logits, bias)


class GridLayers(DenseHead):
    """[(B, c, side, side)] -> ``Predictions`` of logits (B, A, K), deltas (B, A, 4), objectness (B, A)."""

    def __init__(self, spec: GridHead, inputs: int, boxes: int, logits: int, bias: float | None) -> None:
        super().__init__()
        self.side, self.boxes, self.logits = spec.side, boxes, logits
        cells = spec.side * spec.side
        width = inputs * cells
        self.hidden: nn.Module = nn.Identity()
        if spec.local is not None:
            leaky = nn.LeakyReLU(SLOPE)
            self.hidden, width = (
                LocallyConnected(inputs, spec.local, (spec.side, spec.side), activation=leaky),
                spec.local * cells,
            )
        elif spec.hidden is not None:
            layers = (nn.Flatten(), nn.Linear(width, spec.hidden), nn.LeakyReLU(SLOPE))
            self.hidden, width = nn.Sequential(*layers), spec.hidden
        self.dropout = nn.Dropout(spec.dropout)
        self.output = nn.Linear(width, cells * (logits + 5 * boxes))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=(1 / layer.in_features) ** 0.5)
                nn.init.zeros_(layer.bias)
        self._initialize(bias, cells, keeps_cells=spec.hidden is None)

    def _initialize(self, bias: float | None, cells: int, *, keeps_cells: bool) -> None:
        """Initial boxes are near the middle of their cells and a third of the image wide, not empty at a corner."""
        with torch.no_grad():
            if keeps_cells:
                self.output.weight.copy_(self._cell_weights(cells))
            self.output.bias[cells * (self.logits + self.boxes) :] = 0.55
            if bias is not None:
                self.output.bias[: cells * self.logits] = bias

    def _cell_weights(self, cells: int) -> Tensor:
        """Weights (outputs, channels x cells) that are zero but between the outputs of a cell and its own channels."""
        channels, eye = self.output.in_features // cells, torch.eye(cells)
        parts = []
        for count in (self.logits, self.boxes, 4 * self.boxes):  # the order of split_grid
            shared = torch.randn(count, channels) * 0.3 / channels**0.5
            parts.append(torch.einsum("pq,kc->pkcq", eye, shared).reshape(cells * count, -1))
        return torch.cat(parts)

    def forward(self, features: list[Tensor]) -> Predictions:
        x = features[0]
        if x.shape[-2:] != (self.side, self.side):
            raise UsageError(
                f"GridHead is for {self.side} x {self.side} cells, but the map is {x.shape[-2]} x {x.shape[-1]}",
                fix="Give input a canvas of side x stride pixels, as its layers are fully connected",
            )
        x = self.output(self.dropout(self.hidden(x)).flatten(1))
        return split_grid(x, self.side * self.side, self.boxes, self.logits)


def split_grid(x: Tensor, cells: int, boxes: int, logits: int) -> Predictions:
    """Outputs (B, cells (K + 5 n)) in the order of Darknet's layer ``detection``."""
    b = x.shape[0]
    classes, objectness, deltas = torch.split(x, [cells * logits, cells * boxes, cells * boxes * 4], 1)
    shared = classes.view(b, cells, 1, logits).expand(-1, -1, boxes, -1)
    return Predictions(shared.reshape(b, cells * boxes, logits), deltas.reshape(b, -1, 4), objectness)
