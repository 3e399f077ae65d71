"""The two-stage assembly: proposals, a pool for the features of each, and a head that classifies and refines them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ..parts.backbones.base import BackboneSpec
from ..parts.heads.dense import DenseHead
from ..parts.heads.mask import MaskBranch
from ..parts.heads.rcnn import RCNNHeadLayers
from ..parts.heads.roi import RoIHead, RoIHeadSpec
from ..parts.necks.fpn import Neck
from ..parts.pooling.roi_align import Pool, apply_pooled
from ..types import Boxes, Images, Match, Predictions, Priors, Targets
from .detector import Detector, Spec, in_evaluation, network_pixels
from .proposers import EXTERNAL, Proposer
from .task import BoxTask, Outputs, sampled
from .trace import ACTIVE, Sampling

T = TypeVar("T")
HEAD_CHUNK = 256  # RoIs of each image in one pass of the head before sampling; bounds the memory


class TwoStage(Detector):
    """Fast R-CNN, Faster R-CNN and their relatives. A batch with external proposals is used without the RPN."""

    def __init__(
        self,
        spec: Spec,
        classes: Sequence[str],
        *,
        backbone: nn.Module,
        neck: Neck,
        proposer: Proposer,
        pool: Pool,
        roi_head: nn.Module,
        roi: BoxTask,
        rpn_head: DenseHead | None = None,
        mask_head: MaskBranch | None = None,
        append_gt: bool = True,
    ) -> None:
        """``roi``: the task of the second stage. ``rpn_head``: the layers of a proposer that is an RPN.

        ``mask_head``: Mask R-CNN's third branch. ``append_gt``: in training the ground-truth boxes are proposals too.
        """
        source = proposer.source
        threshold = None if mask_head is None else mask_head.spec.threshold
        super().__init__(spec, classes, source=source, has_proposals=source is None, mask_threshold=threshold)
        self.append_gt = append_gt
        self.backbone, self.neck, self.rpn_head, self.roi_head = backbone, neck, rpn_head, roi_head
        self.strides = neck.strides
        self.proposer, self.pool, self.roi, self.mask_head = proposer, pool, roi, mask_head

    @property
    def threshold(self) -> float:
        return self.roi.select.score

    def features(self, images: Images) -> list[Tensor]:
        """The feature maps that proposals are pooled from, (B, c, h, w) each, finest first."""
        maps: list[Tensor] = self.neck(self.backbone(network_pixels(self, images)))
        return maps

    def outputs(self, images: Images) -> Outputs:
        return self._proposer_of(images).outputs(self.rpn_head, self.features(images), images, self.strides)

    def _proposer_of(self, images: Images) -> Proposer:
        return self.proposer if images.proposals is None else EXTERNAL

    # ------------------------------------------------------------------------------------------- training
    def losses(
        self,
        outputs: Outputs,
        images: Images,
        targets: Targets,
        rng: torch.Generator | None,
        learning: str | None = None,
    ) -> dict[str, Tensor]:
        """``rpn.cls`` and ``rpn.box`` of an RPN, ``cls`` and ``box`` of the second stage, ``mask`` of a mask head."""
        proposer = self._proposer_of(images)
        first = {} if learning == "roi" else proposer.losses(outputs, targets, rng)
        if learning == "rpn":
            return first
        proposed = proposer(outputs, images, training=True)
        boxes, valid = proposed.boxes, proposed.valid
        if self.append_gt:  # early in training no other proposal overlaps the objects
            boxes, valid = torch.cat([boxes, targets.boxes], 1), torch.cat([valid, targets.valid], 1)
        priors = Priors(boxes, (boxes.shape[1],), valid)
        return first | self._roi_losses(outputs.features, priors, targets, images, rng)

    def _roi_losses(
        self, features: list[Tensor], priors: Priors, targets: Targets, images: Images, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        selection = self._sample(features, priors, targets, images.sizes, rng)
        if selection is None:
            predictions = self._run_head(features, priors.boxes, images.sizes)
            match = self.roi.match(predictions, priors, targets)
            losses = self.roi.losses(predictions, priors, targets, rng, match=match)
            return losses | self._mask_loss(features, priors.boxes, match, targets, images, rng)
        match, index, valid = selection
        trace = ACTIVE.get()
        if trace is not None:
            all_priors = torch.zeros_like(match.gt, dtype=torch.float32)
            trace.samplings.append(Sampling(priors, match, all_priors.scatter_add(1, index, valid.float())))
            if not trace.losses:
                return {}
        match = sampled(match, index)
        boxes = priors.boxes.gather(1, index[..., None].expand(-1, -1, 4))
        rois = Priors(boxes, (boxes.shape[1],), valid)
        predictions = self._run_head(features, boxes, images.sizes)
        losses = self.roi.losses(predictions, rois, targets, rng, match=match, sample=valid.float())
        match = replace(match, positive=match.positive & valid)
        return losses | self._mask_loss(features, boxes, match, targets, images, rng)

    @torch.no_grad()
    def _sample(
        self, features: list[Tensor], priors: Priors, targets: Targets, sizes: Tensor, rng: torch.Generator | None
    ) -> tuple[Match, Tensor, Tensor] | None:
        """The match of all proposals, and the sampled ones: index (B, R), valid (B, R). None: sampled after the head.

        For a sampler that needs the losses the head first runs on all proposals as in inference: without gradient or
        dropout, and with the running statistics of its norms, which stay as they are.
        """
        sampler, task = self.roi.sampler, self.roi
        if sampler.needs_losses:
            with in_evaluation(self.roi_head):
                predictions = self._run_head(features, priors.boxes, sizes, HEAD_CHUNK)
            match = task.match(predictions, priors, targets)
            return match, *sampler.indices(match, priors, task.prior_losses(predictions, priors, targets, match), rng)
        if sampler.count is None or task.matcher.needs_outputs:
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
        return self._proposer_of(images)(outputs, images, training=training)

    def detections(self, outputs: Outputs, images: Images) -> Boxes:
        proposed = self.proposals(outputs, images)
        priors = Priors(proposed.boxes, (proposed.boxes.shape[1],), proposed.valid)
        boxes = self.roi.detect(self._run_head(outputs.features, proposed.boxes, images.sizes), priors, images)
        if self.mask_head is None:
            return boxes
        return replace(boxes, masks=self.mask_head.probabilities(outputs.features, boxes, self.strides))

    def split_features(self, features: list[Tensor], boxes: Tensor, sizes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The features that an R-CNN head predicts classes (R, width) and boxes (R, length) from, in chunks."""
        head = cast(RCNNHeadLayers, self.roi_head)
        return self._in_chunks(head.split_features, features, boxes, sizes)

    def _run_head(self, features: list[Tensor], boxes: Tensor, sizes: Tensor, chunk: int | None = None) -> Predictions:
        """Boxes (B, P, 4) -> predictions (B, P, ...) of the second stage; ``chunk``: RoIs of an image in one pass."""
        batch = len(boxes)
        parts = list(self._in_chunks(lambda pooled: self.roi_head(pooled, batch), features, boxes, sizes, chunk))
        if len(parts) == 1:
            return cast(Predictions, parts[0])
        return Predictions(torch.cat([p.logits for p in parts], 1), torch.cat([p.deltas for p in parts], 1))

    def _in_chunks(
        self,
        head: Callable[[Tensor], T],
        features: list[Tensor],
        boxes: Tensor,
        sizes: Tensor,
        chunk: int | None = None,
    ) -> Iterator[T]:
        """``head`` on the pooled boxes: all of them, or in inference in chunks of ``chunk`` or of the pool's size."""
        count = boxes.shape[1]
        size = chunk if self.pool.rows is None else max(1, self.pool.rows // len(boxes))
        step = count if torch.is_grad_enabled() or size is None else size
        for start in range(0, count, step):
            yield apply_pooled(head, self.pool, features, boxes[:, start : start + step], self.strides, sizes)


def build_roi_head(spec: RoIHeadSpec, task: BoxTask, channels: int, pool: Pool, classes: int) -> RoIHead:
    """The head of the second stage, with the number of logits and the initial bias of its task's class loss."""
    loss, size = task.cls_loss, (pool.size, pool.size)
    return spec.build(channels, size, loss.channels(classes), classes, loss.bias(classes))


def load_parts(detector: Detector, backbone: BackboneSpec, roi_head: RoIHeadSpec) -> None:
    """Loads the backbone's weights file, where it names one: the backbone's part and the head's."""
    file = backbone.weights_file  # once: the hash of a published file is checked each time it is looked up
    backbone.load_pretrained(detector.get_submodule("backbone"), file)
    if file:
        roi_head.load_pretrained(cast(RoIHead, detector.get_submodule("roi_head")), file)
