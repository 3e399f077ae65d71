"""Which priors of a stage reach an object, and which are assigned to it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..parts.matching.bipartite import BipartiteThenIoU
from ..parts.matching.iou import IoUMatcher
from ..types import Match, Priors, Targets
from .pairing import overlaps
from .traced import TracedStage


def _matched(stage: TracedStage, targets: Targets) -> Match:
    """The stage's priors matched with other objects than it was traced with. RoIs: the proposals of inference."""
    assert stage.sampling is not None
    priors = stage.selection.priors if stage.name == "roi" else stage.sampling.priors
    return stage.task.match(stage.selection.predictions, priors, targets)


def assigned_to(stage: TracedStage, g: int) -> Tensor:
    """(A,) bool: the priors that are assigned to object ``g``."""
    assert stage.sampling is not None and stage.targets is not None
    match = _matched(stage, stage.targets) if stage.name == "roi" else stage.sampling.match
    return (match.positive & (match.gt == g))[0]


def alone(stage: TracedStage, g: int) -> Tensor:
    """(A,) bool: the priors that would be assigned to object ``g`` if there were no other."""
    assert stage.targets is not None
    one = slice(g, g + 1)
    valid = torch.ones_like(stage.targets.valid[:, one])
    alone = Targets(stage.targets.boxes[:, one], stage.targets.labels[:, one], valid, ~valid)
    return _matched(stage, alone).positive[0]


def holders(stage: TracedStage, priors: Tensor) -> list[int]:
    """The objects that these priors (A,) bool are assigned to, in their order."""
    assert stage.sampling is not None and stage.targets is not None
    match = _matched(stage, stage.targets) if stage.name == "roi" else stage.sampling.match
    return sorted(set(match.gt[0][priors & match.positive[0]].tolist()))


def nearest_prior(stage: TracedStage, g: int) -> tuple[str, float, str]:
    """What the stage's priors are called, the largest IoU of one with object ``g``, and its level as text."""
    assert stage.sampling is not None and stage.targets is not None
    priors: Priors = stage.selection.priors if stage.name == "roi" else stage.sampling.priors
    boxes, valid = priors.batched(1)[0].double(), priors.valid
    iou = overlaps(stage.targets.boxes[0, g : g + 1], boxes)[0]
    if valid is not None:
        iou = torch.where(valid[0], iou, 0.0)
    if not len(iou):
        return "priors", 0.0, ""
    best = int(iou.argmax())
    if stage.name == "roi":
        return "proposals", float(iou[best]), ""
    level = int(np.searchsorted(np.cumsum(priors.counts), best, side="right"))
    side = boxes[best, 2:] - boxes[best, :2]
    return "priors", float(iou[best]), f" (level {level + 1}, {float(side[0]):.0f} x {float(side[1]):.0f} px)"


def lowest_iou(stage: TracedStage) -> float:
    """The IoU below which the stage's matcher calls a prior background; 0 where it does not go by IoU."""
    matcher = stage.task.matcher
    return matcher.negative if isinstance(matcher, IoUMatcher | BipartiteThenIoU) else 0.0
