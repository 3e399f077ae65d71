"""The two-stage assembly: a proposer, a pool and a head that looks at each proposal again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..parts.mask_head import HALF, MaskBranch
from ..parts.necks import Neck
from ..parts.pooling import Pool
from ..parts.priors import Anchors
from ..parts.samplers import Balanced
from ..task import BoxTask, sampled
from ..types import Boxes, Images, Match, Predictions, Priors, Targets
from .base import Detector, Outputs, Spec, merge_classes
from .one_stage import everywhere


@dataclass(frozen=True)
class Counts:
    """How many proposals are kept."""

    before: int = 1000  # of each level, before suppression
    after: int = 1000  # of each image, after it


class Region(Detector):
    """Faster R-CNN and its relatives: proposals come from an RPN."""

    has_proposals = True

    def __init__(
        self,
        spec: Spec,
        classes: Sequence[str],
        backbone: nn.Module,
        neck: Neck,
        rpn_head: nn.Module,
        anchors: Anchors,
        rpn: BoxTask,
        pool: Pool,
        roi_head: nn.Module,
        roi: BoxTask,
        *,
        train_proposals: Counts,
        test_proposals: Counts,
    ) -> None:
        super().__init__(spec, classes)
        self.backbone, self.neck, self.rpn_head, self.roi_head = backbone, neck, rpn_head, roi_head
        self.strides = neck.strides
        self.anchors, self.rpn, self.pool, self.roi = anchors, rpn, pool, roi
        self.rpn_train = rpn.with_counts(train_proposals.before, train_proposals.after)
        self.rpn_test = rpn.with_counts(test_proposals.before, test_proposals.after)
        self.mask_head: MaskBranch | None = None  # Mask R-CNN's third branch

    @property
    def has_masks(self) -> bool:
        return self.mask_head is not None

    def outputs(self, images: Images) -> Outputs:
        features = self.neck(self.backbone(self._pixels(images)))
        return Outputs(features, [self.rpn_head(features)], self.anchors(images, features, self.strides))

    # ------------------------------------------------------------------------------------------- training
    def losses(
        self, outputs: Outputs, images: Images, targets: Targets, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        rpn = self.rpn.losses(outputs.layers[-1], outputs.priors, merge_classes(targets), rng)
        proposed = self.rpn_train.detect(detached(outputs.layers[-1]), everywhere(outputs.priors), images)
        # the objects themselves are proposals too: early in training nothing else overlaps them
        priors = Priors(
            torch.cat([proposed.boxes, targets.boxes], 1),
            (proposed.boxes.shape[1] + targets.boxes.shape[1],),
            torch.cat([proposed.valid, targets.valid], 1),
        )
        roi = self._roi_losses(outputs.features, priors, targets, images, rng)
        return {f"rpn.{k}": v for k, v in rpn.items()} | roi

    def _roi_losses(
        self, features: list[Tensor], priors: Priors, targets: Targets, images: Images, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        sampler = self.roi.sampler
        if not isinstance(sampler, Balanced) or self.roi.matcher.needs_outputs:  # it wants to see every row
            predictions = self._second(features, priors.boxes)
            match = self.roi.match(predictions, priors, targets)
            losses = self.roi.losses(predictions, priors, targets, rng, match=match)
            return losses | self._mask_loss(features, priors.boxes, match, targets, images, rng)
        with torch.no_grad():
            match = self.roi.matcher(priors, targets)
            index, kept = sampler.rows(match, priors.valid, rng)  # (B, R)
            match = sampled(match, index)
            boxes = priors.boxes.gather(1, index[..., None].expand(-1, -1, 4))
        rows = Priors(boxes, (boxes.shape[1],), kept)
        losses = self.roi.losses(self._second(features, boxes), rows, targets, rng, match=match, kept=kept.float())
        match = replace(match, positive=match.positive & kept)
        return losses | self._mask_loss(features, boxes, match, targets, images, rng)

    def _mask_loss(
        self,
        features: list[Tensor],
        boxes: Tensor,
        match: Match,
        targets: Targets,
        images: Images,
        rng: torch.Generator | None,
    ) -> dict[str, Tensor]:
        if self.mask_head is None:
            return {}
        return {"mask": self.mask_head.loss(features, boxes, match, targets, images, self.strides, rng)}

    # ------------------------------------------------------------------------------------------ inference
    def proposals(self, outputs: Outputs, images: Images) -> Boxes:
        return self.rpn_test.detect(outputs.layers[-1], everywhere(outputs.priors), images)

    def detections(self, outputs: Outputs, images: Images) -> Boxes:
        proposed = self.proposals(outputs, images)
        priors = Priors(proposed.boxes, (proposed.boxes.shape[1],), proposed.valid)
        found = self.roi.detect(self._second(outputs.features, proposed.boxes), priors, images)
        if self.mask_head is None:
            return found
        return replace(found, masks=self.mask_head.probabilities(outputs.features, found, self.strides))

    def _second(self, features: list[Tensor], boxes: Tensor) -> Predictions:
        """Boxes (B, P, 4) -> predictions (B, P, ...) of the second stage."""
        with torch.autocast(boxes.device.type, enabled=False):
            pooled = self.pool(features, boxes, self.strides)  # (B * P, c, h, w)
        with torch.autocast(boxes.device.type, dtype=pooled.dtype, enabled=pooled.dtype in HALF):
            predictions: Predictions = self.roi_head(pooled, boxes.shape[0])
        return predictions


def detached(predictions: Predictions) -> Predictions:
    """Proposals are inputs to the second stage: no gradient flows through their coordinates."""
    return Predictions(predictions.logits.detach(), predictions.deltas.detach())
