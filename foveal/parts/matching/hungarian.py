"""DETR's matching: the assignment of queries to objects that costs least in all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...boxes import pairwise_giou
from ...errors import UsageError
from ...types import Match, Priors, Targets
from ..coders import ImageRelative
from .matcher import DecodedOutputs, Matcher, finalize_match

_WORST = 1e6  # what a cost that is no number counts as; the guard of the training stops such a step


@dataclass(frozen=True)
class Hungarian(Matcher):
    """Each object has one query, each query at most one object, and the sum of costs is the least possible (DETR,
    section 3.1).

    The cost of a pair is ``-cls p + l1 |b - b*| - giou GIoU(b, b*)``: p the query's probability of the object's class,
    b and b* center and sides as parts of the picture. Queries without an object are background. Of more objects than
    queries, those that cost least are matched.

    Costs are computed on the device for the whole batch (and for all layers of a decoder, if it is given them as one),
    brought to the host in one transfer and solved there by SciPy. A query whose own box lies by half or more in a
    region of ``targets.ignore`` is ignored unless it has an object.
    """

    needs_outputs: ClassVar[bool] = True
    cls: float = 1.0  # weight of the probability of the right class
    l1: float = 5.0  # of the distance of the boxes, as parts of the picture
    giou: float = 2.0  # of their generalized IoU

    def __post_init__(self) -> None:
        weights = (self.cls, self.l1, self.giou)
        if min(weights) < 0 or max(weights) == 0:
            raise UsageError(f"{self}: weights are 0 or more, and not all 0")

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, outputs: DecodedOutputs | None = None) -> Match:
        assert outputs is not None  # needs_outputs
        cost = self.costs(priors, targets, outputs)
        owner = torch.from_numpy(solve_assignment(cost.cpu().numpy())).to(cost.device, non_blocking=True)  # (B, A)
        positive = owner >= 0
        found = Priors(outputs[0], priors.counts, priors.valid)
        return finalize_match(owner.clamp(min=0), positive, torch.zeros_like(positive), found, targets)

    def costs(self, priors: Priors, targets: Targets, outputs: DecodedOutputs) -> Tensor:
        """(B, A, G) float32: of every query with every object, infinite where there is no object."""
        boxes, scores = outputs
        a, g = boxes.shape[1], targets.boxes.shape[1]
        probability = scores.gather(2, targets.labels[:, None].expand(-1, a, -1))
        whole, coder = priors.batched(len(boxes)), ImageRelative()
        wanted = coder.encode(targets.boxes, whole[:, :1].expand(-1, g, -1))
        distance = torch.cdist(coder.encode(boxes, whole), wanted, p=1)
        cost = self.l1 * distance - self.cls * probability - self.giou * pairwise_giou(boxes, targets.boxes.float())
        cost = cost.nan_to_num(_WORST, _WORST, -_WORST)
        return cost.masked_fill(~targets.valid[:, None], torch.inf)


def solve_assignment(cost: NDArray[np.float32]) -> NDArray[np.int64]:
    """Costs (B, A, G), infinite for an object that is not there -> the object of each query (B, A), -1 for none."""
    from scipy.optimize import linear_sum_assignment  # late: a tenth of a second that other detectors need not wait

    owner = np.full(cost.shape[:2], -1, dtype=np.int64)
    for own, image in zip(owner, cost, strict=True):
        objects = np.flatnonzero(np.isfinite(image[0]))
        if len(objects):
            query, which = linear_sum_assignment(image[:, objects])
            own[query] = objects[which]
    return owner
