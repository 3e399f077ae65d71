"""DETR's matcher: the one-to-one assignment of queries to objects with the smallest total cost."""

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
from .matcher import DecodedOutputs, Matcher, finalize_match, without_priors

_WORST = 1e6  # what a NaN or infinite cost counts as; the training loop's non-finite check stops such a step


@dataclass(frozen=True)
class Hungarian(Matcher):
    """Each object is assigned one query, each query at most one object, and the sum of costs is the smallest possible
    (DETR, section 3.1).

    The cost of a pair is ``-cls p + l1 |b - b*| - giou GIoU(b, b*)``: p the query's probability of the object's class,
    b and b* center and sides as fractions of the image. Queries without an object are background. Of more objects than
    queries, those with the smallest costs are matched.

    Costs are computed on the device for the whole batch (and for all decoder layers, if they come as one batch),
    copied to the CPU in one transfer and solved there by SciPy. A query without an object is ignored if at least half
    of its predicted box lies in a region of ``targets.ignore``.
    """

    needs_outputs: ClassVar[bool] = True
    cls: float = 1.0  # weight of the probability of the right class
    l1: float = 5.0  # of the distance of the boxes, as fractions of the image
    giou: float = 2.0  # of their generalized IoU

    def __post_init__(self) -> None:
        weights = (self.cls, self.l1, self.giou)
        if min(weights) < 0 or max(weights) == 0:
            raise UsageError(f"{self}: weights are 0 or more, and not all 0")

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, outputs: DecodedOutputs | None = None) -> Match:
        assert outputs is not None  # needs_outputs
        if not outputs[0].shape[1]:
            return without_priors(targets)
        cost = self.costs(priors, targets, outputs)
        gt = torch.from_numpy(solve_assignment(cost.cpu().numpy())).to(cost.device, non_blocking=True)  # (B, A)
        positive = gt >= 0
        predicted = Priors(outputs[0], priors.counts, priors.valid)
        return finalize_match(gt.clamp(min=0), positive, torch.zeros_like(positive), predicted, targets)

    def costs(self, priors: Priors, targets: Targets, outputs: DecodedOutputs) -> Tensor:
        """(B, A, G) float32: the cost of each query with each object, infinite where there is no object."""
        boxes, scores = outputs
        a, g = boxes.shape[1], targets.boxes.shape[1]
        probability = scores.gather(2, targets.labels[:, None].expand(-1, a, -1))
        image, coder = priors.batched(len(boxes)), ImageRelative()  # (B, A, 4): every prior is the whole image
        objects = coder.encode(targets.boxes, image[:, :1].expand(-1, g, -1))  # (B, G, 4)
        distance = torch.cdist(coder.encode(boxes, image), objects, p=1)  # (B, A, G)
        cost = self.l1 * distance - self.cls * probability - self.giou * pairwise_giou(boxes, targets.boxes.float())
        cost = cost.nan_to_num(_WORST, _WORST, -_WORST)
        return cost.masked_fill(~targets.valid[:, None], torch.inf)


def solve_assignment(cost: NDArray[np.float32]) -> NDArray[np.int64]:
    """Costs (B, A, G), infinite where there is no object -> the object of each query (B, A), -1 for none."""
    from scipy.optimize import linear_sum_assignment  # late: its import takes a tenth of a second

    gt = np.full(cost.shape[:2], -1, dtype=np.int64)
    for gt_of_image, image in zip(gt, cost, strict=True):
        objects = np.flatnonzero(np.isfinite(image).any(0))
        if len(objects):
            query, which = linear_sum_assignment(image[:, objects])
            gt_of_image[query] = objects[which]
    return gt
