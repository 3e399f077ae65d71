"""The two-stage assembly: proposals, a pool, and a head that looks at each proposal again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ..parts.backbones.base import BackboneSpec
from ..parts.heads.mask import MaskBranch
from ..parts.heads.rcnn import RCNNHeadLayers
from ..parts.heads.roi import RoIHead, RoIHeadSpec
from ..parts.necks.fpn import Neck
from ..parts.pooling.roi_align import Pool, apply_pooled
from ..parts.samplers import Balanced
from ..types import Boxes, Images, Match, Predictions, Priors, Targets
from .detector import Detector, Outputs, Spec, in_evaluation
from .proposers import EXTERNAL, Proposer
from .task import BoxTask, sampled

T = TypeVar("T")
HEAD_CHUNK = 256  # RoIs of each image that run through the head together before sampling; bounds the memory


# ---------------------------------------------------------------------------------------------- the assembly
class TwoStage(Detector):
    """Fast R-CNN, Faster R-CNN and their relatives. Where a batch brings proposals, an RPN is not asked for any."""

    def __init__(
        self,
        spec: Spec,
        classes: Sequence[str],
        backbone: nn.Module,
        neck: Neck,
        proposer: Proposer,
        rpn_head: nn.Module | None,
        pool: Pool,
        roi_head: nn.Module,
        roi: BoxTask,
        *,
        joined: bool = True,
    ) -> None:
        """``joined``: in training the objects themselves are proposals too."""
        super().__init__(spec, classes)
        self.joined = joined
        self.backbone, self.neck, self.rpn_head, self.roi_head = backbone, neck, rpn_head, roi_head
        self.strides = neck.strides
        self.proposer, self.pool, self.roi = proposer, pool, roi
        self.source, self.has_proposals = proposer.source, proposer.source is None
        self.mask_head: MaskBranch | None = None  # Mask R-CNN's third branch

    @property
    def threshold(self) -> float:
        return self.roi.select.score

    @property
    def has_masks(self) -> bool:
        return self.mask_head is not None

    def features(self, images: Images) -> list[Tensor]:
        """The maps that proposals are pooled from, (B, c, h, w) each."""
        found: list[Tensor] = self.neck(self.backbone(self._pixels(images)))
        return found

    def outputs(self, images: Images) -> Outputs:
        return self._proposes(images).outputs(self.rpn_head, self.features(images), images, self.strides)

    def _proposes(self, images: Images) -> Proposer:
        return self.proposer if images.proposals is None else EXTERNAL

    # ------------------------------------------------------------------------------------------- training
    def losses(
        self, outputs: Outputs, images: Images, targets: Targets, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        proposer = self._proposes(images)
        first = {} if self.learning == "roi" else proposer.losses(outputs, targets, rng)
        if self.learning == "rpn":
            return first
        proposed = proposer(outputs, images, training=True)
        boxes, valid = proposed.boxes, proposed.valid
        if self.joined:  # early in training nothing else overlaps the objects
            boxes, valid = torch.cat([boxes, targets.boxes], 1), torch.cat([valid, targets.valid], 1)
        priors = Priors(boxes, (boxes.shape[1],), valid)
        return first | self._roi_losses(outputs.features, priors, targets, images, rng)

    def _roi_losses(
        self, features: list[Tensor], priors: Priors, targets: Targets, images: Images, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        chosen = self._chosen(features, priors, targets, images.sizes, rng)
        if chosen is None:
            predictions = self._run_head(features, priors.boxes, images.sizes)
            match = self.roi.match(predictions, priors, targets)
            losses = self.roi.losses(predictions, priors, targets, rng, match=match)
            return losses | self._mask_loss(features, priors.boxes, match, targets, images, rng)
        match, index, kept = chosen
        match = sampled(match, index)
        boxes = priors.boxes.gather(1, index[..., None].expand(-1, -1, 4))
        rows = Priors(boxes, (boxes.shape[1],), kept)
        found = self._run_head(features, boxes, images.sizes)
        losses = self.roi.losses(found, rows, targets, rng, match=match, kept=kept.float())
        match = replace(match, positive=match.positive & kept)
        return losses | self._mask_loss(features, boxes, match, targets, images, rng)

    @torch.no_grad()
    def _chosen(
        self, features: list[Tensor], priors: Priors, targets: Targets, sizes: Tensor, rng: torch.Generator | None
    ) -> tuple[Match, Tensor, Tensor] | None:
        """The match of all rows, and the few that are learned from: index (B, R), kept (B, R). None: all of them.

        A sampler that wants to know the losses has the head look at all rows as it would in inference: nothing is kept
        for a backward, no dropout is drawn, and norms neither see the batch nor remember it.
        """
        sampler, task = self.roi.sampler, self.roi
        if sampler.needs_losses:
            with in_evaluation(self.roi_head):
                looked = self._run_head(features, priors.boxes, sizes, HEAD_CHUNK)
            match = task.match(looked, priors, targets)
            return match, *sampler.indices(match, priors, task.row_losses(looked, priors, targets, match), rng)
        if not isinstance(sampler, Balanced) or task.matcher.needs_outputs:
            return None
        match = task.matcher(priors, targets)
        return match, *sampler.indices(match, priors, rng=rng)

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
    def proposals(self, outputs: Outputs, images: Images, *, training: bool = False) -> Boxes:
        return self._proposes(images)(outputs, images, training=training)

    def detections(self, outputs: Outputs, images: Images) -> Boxes:
        proposed = self.proposals(outputs, images)
        priors = Priors(proposed.boxes, (proposed.boxes.shape[1],), proposed.valid)
        found = self.roi.detect(self._run_head(outputs.features, proposed.boxes, images.sizes), priors, images)
        if self.mask_head is None:
            return found
        return replace(found, masks=self.mask_head.probabilities(outputs.features, found, self.strides))

    def split_features(self, features: list[Tensor], boxes: Tensor, sizes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """What an R-CNN head predicts classes (R, width) and boxes (R, length) from, in chunks."""
        head = cast(RCNNHeadLayers, self.roi_head)
        return self._in_chunks(head.split_features, features, boxes, sizes)

    def _run_head(
        self, features: list[Tensor], boxes: Tensor, sizes: Tensor, at_a_time: int | None = None
    ) -> Predictions:
        """Boxes (B, P, 4) -> predictions (B, P, ...) of the second stage."""
        batch = len(boxes)
        parts = list(self._in_chunks(lambda rows: self.roi_head(rows, batch), features, boxes, sizes, at_a_time))
        if len(parts) == 1:
            return cast(Predictions, parts[0])
        return Predictions(torch.cat([p.logits for p in parts], 1), torch.cat([p.deltas for p in parts], 1))

    def _in_chunks(
        self,
        look: Callable[[Tensor], T],
        features: list[Tensor],
        boxes: Tensor,
        sizes: Tensor,
        at_a_time: int | None = None,
    ) -> Iterator[T]:
        """``look`` at the pooled boxes: at all of them, or a few at a time where the pool asks for it in inference."""
        count = boxes.shape[1]
        rows = at_a_time if self.pool.rows is None else max(1, self.pool.rows // len(boxes))
        step = count if torch.is_grad_enabled() or rows is None else rows
        for start in range(0, count, step):
            yield apply_pooled(look, self.pool, features, boxes[:, start : start + step], self.strides, sizes)


def build_roi_head(spec: RoIHeadSpec, task: BoxTask, channels: int, pool: Pool, classes: int) -> RoIHead:
    """The head that looks at each pooled proposal, with the logits and the starting bias that its task wants."""
    loss, size = task.cls_loss, (pool.size, pool.size)
    return spec.build(channels, size, loss.channels(classes), classes, loss.bias(classes))


def load_parts(detector: Detector, backbone: BackboneSpec, roi_head: RoIHeadSpec) -> None:
    """Reads the backbone's weights file, where it names one, and from it the head's part."""
    file = backbone.weights_file  # once: the hash of a published file is checked each time it is looked up
    backbone.load_pretrained(detector.get_submodule("backbone"), file)
    if file:
        roi_head.load_pretrained(cast(RoIHead, detector.get_submodule("roi_head")), file)
