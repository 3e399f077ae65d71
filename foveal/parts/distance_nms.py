"""Non-maximum suppression by overlap and distance of centers (Zheng et al. 2020), as in AlexeyAB's Darknet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .. import boxes as box_ops
from ..errors import UsageError
from ..types import Boxes
from .postprocess import Suppress, gather_boxes

_ROWS = 512  # boxes compared with all others at a time


@dataclass(frozen=True)
class DistanceNMS(Suppress):
    """Greedy NMS in which a box is removed if IoU - (d / c)^``exponent`` with a better one of its group is above
    ``iou``.

    d is the squared distance of the centers, c the squared diagonal of the smallest box around both: boxes that overlap
    as much but are centered elsewhere remain. Darknet's ``diounms`` with ``beta_nms`` as exponent, and its
    ``greedynms`` with 0.6.
    """

    iou: float = 0.5
    exponent: float = 0.6
    per: Literal["class", "level", "all"] = "class"  # what a group is; boxes do not suppress those of other groups

    def __post_init__(self) -> None:
        if self.per not in ("class", "level", "all"):
            raise UsageError(f"DistanceNMS: per is {self.per!r}, not one of class, level, all")
        if not self.exponent > 0:
            raise UsageError(f"DistanceNMS(exponent={self.exponent}): expected more than 0")

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes:
        """The remaining boxes, padded to min(top, S), by falling score. Device syncs: some an image."""
        group = {"class": labels, "level": level.expand_as(labels), "all": torch.zeros_like(labels)}[self.per]
        ranked = scores.float().masked_fill(~valid, -torch.inf)
        order = ranked.argsort(dim=1, descending=True, stable=True)
        remains = torch.zeros_like(valid)
        for i, count in enumerate(valid.sum(1).tolist()):
            at = order[i, :count]
            remains[i, at[self._greedy(boxes[i, at].float(), group[i, at])]] = True
        index = ranked.masked_fill(~remains, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, : self.top]
        return gather_boxes(boxes, scores, labels, index, remains.gather(1, index))

    def _greedy(self, boxes: Tensor, group: Tensor) -> Tensor:
        """Which boxes (n, 4) of groups (n,), best first, remain, (n,) bool.

        Repeating "a box remains if no remaining better one removes it" settles box by box, from the best on.
        """
        n = len(boxes)
        removes = torch.zeros(n, n, dtype=torch.bool, device=boxes.device)  # [i, j]: i removes j
        for start in range(0, n, _ROWS):
            part = slice(start, start + _ROWS)
            close = box_ops.iou(boxes[part, None], boxes[None]) - self.distance(boxes[part, None], boxes[None])
            removes[part] = (close > self.iou) & (group[part, None] == group[None])
        removes = removes.triu(1)
        remains = torch.ones(n, dtype=torch.bool, device=boxes.device)
        while True:
            updated = ~(removes & remains[:, None]).any(0)
            if torch.equal(updated, remains):
                return remains
            remains = updated

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """The distance of the centers of boxes that broadcast, (..., 4) x (..., 4) -> (...), as it counts against their
        IoU."""
        shift = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
        hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
        share: Tensor = shift.square().sum(-1) / hull.square().sum(-1).clamp(min=1e-9)
        return share**self.exponent
