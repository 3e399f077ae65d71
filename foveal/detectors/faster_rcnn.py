"""Faster R-CNN (Ren et al., NIPS 2015), its C4 form (He et al., CVPR 2016) and its FPN form (Lin et al., CVPR 2017).

backbone [-> FPN] -> RPN: objectness and 4 deltas for every anchor -> proposals (decode, clip, NMS)
-> pool each proposal -> head: C + 1 softmax logits and 4 deltas a class -> per-class NMS
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..assembly.detector import Detector, Spec
from ..assembly.proposers import Counts, FromRPN
from ..assembly.task import BoxTask
from ..assembly.two_stage import TwoStage, build_roi_head, load_parts
from ..errors import UsageError
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.torchvision import Torchvision
from ..parts.coders import Delta
from ..parts.heads.dense import RPNHead
from ..parts.heads.mask import MaskBranch
from ..parts.heads.roi import RoIHeadSpec, RoIMLP
from ..parts.losses.box import SmoothL1
from ..parts.losses.classification import BinaryCrossEntropy, CrossEntropy
from ..parts.losses.normalizers import Sampled
from ..parts.matching.iou import IoUMatcher
from ..parts.necks.fpn import FPN, Identity, SingleLevel
from ..parts.pooling.roi_align import Pool, RoIAlign
from ..parts.postprocess import NMS, Select
from ..parts.priors.anchors import Anchors, PyramidAnchors, at_strides
from ..parts.resizing import Input, Resize
from ..parts.samplers import Balanced
from ..recipe import GradientStage, OnImages, OnProposals, Recipe

RPN_TASK = BoxTask(
    matcher=IoUMatcher(0.7, 0.3, low_quality=True),
    cls_loss=BinaryCrossEntropy(normalizer=Sampled()),
    box_loss=SmoothL1(beta=1 / 9, normalizer=Sampled()),
    sampler=Balanced(256, 0.5),
    coder=Delta(),
    select=Select(score=0.0, per_level=1000, min_size=1e-3),
    suppress=NMS(iou=0.7, per="level", top=1000),
)

ROI_TASK = BoxTask(
    matcher=IoUMatcher(0.5, 0.5, low_quality=False),
    cls_loss=CrossEntropy(normalizer=Sampled()),
    box_loss=SmoothL1(beta=1 / 9, normalizer=Sampled()),
    sampler=Balanced(512, 0.25),
    coder=Delta(weights=(10.0, 10.0, 5.0, 5.0)),
    select=Select(score=0.05, per_level=None, min_size=1e-2),
    suppress=NMS(iou=0.5, per="class", top=100),
)


@dataclass(frozen=True)
class FasterRCNN(Spec):
    """The FPN form by default; single-level forms have another neck, pool and head (see the presets)."""

    input: Input = Resize(800, 1333)  # the resize rule of prediction and evaluation
    backbone: BackboneSpec = Torchvision("resnet50")
    levels: tuple[int, ...] = (2, 3, 4, 5)  # of the backbone (stride 2^level), where it has them and no returns
    neck: FPN | SingleLevel | Identity = FPN(256, extra="pool")  # P2..P6; the last is the RPN's alone
    rpn_head: RPNHead = RPNHead()  # 3 x 3 convolution and two sibling 1 x 1
    anchors: Anchors | PyramidAnchors = Anchors(sizes=((32,), (64,), (128,), (256,), (512,)), ratios=(0.5, 1.0, 2.0))
    rpn: BoxTask = RPN_TASK  # the first stage: object or not
    pool: Pool = RoIAlign(7, ratio=2)
    roi_head: RoIHeadSpec = RoIMLP(1024)
    roi: BoxTask = ROI_TASK  # the second stage: classification and box refinement
    train_proposals: Counts = Counts(2000, 2000)
    test_proposals: Counts = Counts(1000, 1000)
    fit: Recipe = Recipe()  # the recipe it is trained by

    def build(self, classes: Sequence[str]) -> TwoStage:
        """The detector with random weights."""
        backbone = self.backbone.build(self.levels)
        neck = self.neck.build(backbone.channels, backbone.strides)
        anchors, loss = at_strides(self.anchors, neck.strides), self.rpn.cls_loss
        rpn_head = self.rpn_head.build(neck.channels, anchors.per_location, loss.channels(1), loss.bias(1))
        if (self.rpn.select.per_level, self.rpn.suppress.top) != (RPN_TASK.select.per_level, RPN_TASK.suppress.top):
            raise UsageError(
                "rpn.select.per_level and rpn.suppress.top have no effect here",
                fix="Set train_proposals=Counts(BEFORE, AFTER) and test_proposals=Counts(BEFORE, AFTER)",
            )
        pool = with_levels(self.pool, backbone.strides if isinstance(self.neck, FPN) else neck.strides)
        roi_head = build_roi_head(self.roi_head, self.roi, neck.channels[0], pool, len(classes))
        return TwoStage(
            self,
            classes,
            backbone=backbone,
            neck=neck,
            proposer=FromRPN(anchors, self.rpn, self.train_proposals, self.test_proposals),
            pool=pool,
            roi_head=roi_head,
            roi=self.roi,
            rpn_head=rpn_head,
            mask_head=self._build_mask_head(neck.channels[0], len(classes), pool),
        )

    def _build_mask_head(self, channels: int, classes: int, pool: Pool) -> MaskBranch | None:
        """Mask R-CNN's third branch, for feature maps of these channels; ``pool``: that of the boxes."""
        return None

    def load_pretrained(self, detector: Detector) -> None:
        """Reads the backbone's weights file, where it names one."""
        load_parts(detector, self.backbone, self.roi_head)


def alternating(*shared: str) -> tuple[GradientStage, ...]:
    """Alternating training in four steps (section 3.2 of the first paper): an RPN; a separate Fast R-CNN on its
    proposals; the RPN on that network's features; the head on the proposals of this RPN.

    ``shared``: the layers that both share in the end. As in the released code, the RPN is initialized again in step 3,
    and only the last layers of the head in step 4.
    """
    rpn, head = ("rpn_head",), ("roi_head",)
    return (
        OnImages("rpn", trains=(*shared, *rpn)),
        OnProposals(trains=(*shared, *head), begin=shared),
        OnImages("rpn", trains=rpn, begin=rpn),
        OnProposals(trains=head, begin=("roi_head.predictor",)),
    )


def with_levels(pool: Pool, strides: Sequence[int]) -> Pool:
    """RoIAlign pools from the backbone's levels, without the extra ones of a neck, unless it names its own."""
    if not isinstance(pool, RoIAlign) or pool.levels is not None:
        return pool
    return replace(pool, levels=(strides[0].bit_length() - 1, strides[-1].bit_length() - 1))
