"""Fast R-CNN (Girshick, ICCV 2015).

backbone -> pool each external proposal -> head: C + 1 softmax logits and 4 deltas a class -> per-class NMS
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..assembly.detector import Detector, Spec
from ..assembly.proposers import ExternalProposals
from ..assembly.task import BoxTask
from ..assembly.two_stage import TwoStage, build_roi_head, load_parts
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.torchvision import Torchvision
from ..parts.coders import Delta
from ..parts.heads.roi import RoIHeadSpec, VGGTail
from ..parts.losses.box import SmoothL1
from ..parts.losses.classification import CrossEntropy
from ..parts.losses.normalizers import Sampled
from ..parts.matching.iou import IoUMatcher
from ..parts.necks.fpn import FPN, Identity, SingleLevel
from ..parts.pooling.roi_align import Pool, RoIPool
from ..parts.postprocess import NMS, Select
from ..parts.resizing import Input, Resize
from ..parts.samplers import Balanced
from ..parts.selective_search import ProposalSource, SelectiveSearch
from ..recipe import Recipe
from .faster_rcnn import with_levels

# Sections 2.3 and 3, and the released code: 64 proposals of an image, 16 of them positive (IoU of .5 or more), the
# others background with an IoU of .1 or more, which replaces hard-example mining. Its target deviations are measured
# for each class; ours are py-faster-rcnn's fixed (.1, .1, .2, .2): the same layer in other units, so the spec is
# complete without a pass over the data. Of each class the 100 best proposals go to NMS; there is no score threshold.
FAST_TASK = BoxTask(
    matcher=IoUMatcher(0.5, 0.5, low_quality=False, background=0.1),
    cls_loss=CrossEntropy(normalizer=Sampled()),
    box_loss=SmoothL1(beta=1.0, normalizer=Sampled()),
    sampler=Balanced(64, 0.25),
    coder=Delta(weights=(10.0, 10.0, 5.0, 5.0)),
    select=Select(score=0.0, per_level=None, per_class=100),
    suppress=NMS(iou=0.3, per="class", top=2000),
)


@dataclass(frozen=True)
class FastRCNN(Spec):
    """The VGG-16 form by default. ``proposals`` fills the batches of train, eval and predict, through the cache."""

    input: Input = Resize(600, 1000, multiple=1)  # the resize rule of prediction and evaluation
    proposals: ProposalSource = SelectiveSearch()  # the source of proposals; proposals.top is the number used
    backbone: BackboneSpec = Torchvision("vgg16", returns=(4,), frozen_stages=2, ceil=True)
    levels: tuple[int, ...] = (4,)  # of the backbone (stride 2^level), where it has them and names none itself
    neck: FPN | SingleLevel | Identity = SingleLevel()
    pool: Pool = RoIPool(7)
    roi_head: RoIHeadSpec = VGGTail(4096)
    roi: BoxTask = FAST_TASK  # classification and box refinement
    fit: Recipe = Recipe()  # the recipe it is trained by

    @property
    def source(self) -> ProposalSource:
        return self.proposals

    def build(self, classes: Sequence[str]) -> TwoStage:
        """The detector with random weights."""
        backbone = self.backbone.build(self.levels)
        neck = self.neck.build(backbone.channels, backbone.strides)
        pool = with_levels(self.pool, backbone.strides if isinstance(self.neck, FPN) else neck.strides)
        head = build_roi_head(self.roi_head, self.roi, neck.channels[0], pool, len(classes))
        return TwoStage(
            self,
            classes,
            backbone=backbone,
            neck=neck,
            proposer=ExternalProposals(self.proposals),
            pool=pool,
            roi_head=head,
            roi=self.roi,
        )

    def load_pretrained(self, detector: Detector) -> None:
        """Reads the backbone's weights file, where it names one, and from it the head's part."""
        load_parts(detector, self.backbone, self.roi_head)
