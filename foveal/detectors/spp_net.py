"""SPP-Net (He et al., ECCV 2014).

backbone, once an image -> external proposals, each pooled by a pyramid of bins -> connected layers -> class layer on
their output, box layer on the pooled vector -> per-class NMS

Trained as R-CNN is, but with a frozen backbone, so that its maps are computed once: the connected layers and a softmax
on windows of the whole set, then SVMs, then a ridge regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ..assembly.detector import Detector, Spec
from ..assembly.proposers import ExternalProposals
from ..assembly.task import BoxTask
from ..assembly.two_stage import TwoStage
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.caffe import ZF5
from ..parts.heads.rcnn import RCNNHead, RCNNHeadLayers
from ..parts.matching.iou import IoUMatcher
from ..parts.necks.fpn import Identity
from ..parts.pooling.spp import SPP
from ..parts.resizing import Input, Resize
from ..parts.samplers import Balanced
from ..parts.selective_search import ProposalSource, SelectiveSearch
from ..recipe import SGD, SVM, OnStoredMaps, Recipe, Ridge, Solve, Steps, WindowSampling
from .rcnn import BOXES, CLASSES, WINDOW_TASK

SPP_TASK = replace(
    WINDOW_TASK,
    matcher=IoUMatcher(0.5, 0.5, low_quality=False, background=0.1),
    sampler=Balanced(64, 0.25),
)

FINE_TUNE_TOP = OnStoredMaps(WindowSampling(low=0.1), trains=("roi_head.trunk", CLASSES))

# .001, .0001, .00001 for 30,000 iterations each on 128 windows: 36 epochs of 64 windows an image of VOC 2007 trainval.
SPP_FIT = Recipe(
    epochs=36,
    batch=128,
    lr=0.001,
    solver=SGD(0.9, 5e-4),
    schedule=Steps((1 / 3, 2 / 3)),
    warmup_steps=0,
    val_every=36,
    difficult="ignore",
    stages=(
        FINE_TUNE_TOP,
        Solve(SVM(), trains=(CLASSES,)),
        Solve(Ridge(alpha=4000.0, iou=0.5), trains=(BOXES,)),
    ),
)


@dataclass(frozen=True)
class SPPNet(Spec):
    """The paper's form by default, on ZF-5 at one scale. Five: ``backbone=ImagePyramid(ZF5()) input.short=1200``."""

    input: Input = Resize(688, 4000, multiple=1)  # the resize rule of prediction and evaluation
    proposals: ProposalSource = SelectiveSearch()  # the source of proposals
    backbone: BackboneSpec = ZF5()
    levels: tuple[int, ...] = (4,)  # of the backbone (stride 2^level), where it has no returns
    pool: SPP = SPP()
    head: RCNNHead = RCNNHead(bias=1.0)
    roi: BoxTask = SPP_TASK  # classification and box refinement
    fit: Recipe = SPP_FIT  # the recipe it is trained by

    @property
    def source(self) -> ProposalSource:
        return self.proposals

    @property
    def zero_initialized(self) -> tuple[str, ...]:
        return (BOXES,)

    def build(self, classes: Sequence[str]) -> TwoStage:
        """The detector with random weights."""
        backbone: Any = self.backbone.build(self.levels)
        neck = Identity().build(backbone.channels, backbone.strides)
        loss, count, channels = self.roi.cls_loss, len(classes), self.pool.channels(backbone.channels[-1])
        head = self.head.build(channels, 1, loss.channels(count), count, loss.bias(count))
        return TwoStage(
            self,
            classes,
            backbone=backbone,
            neck=neck,
            proposer=ExternalProposals(self.proposals),
            pool=self.pool,
            roi_head=head,
            roi=self.roi,
        )

    def load_pretrained(self, detector: Detector) -> None:
        """Reads the backbone's weights file, where it names one, and connected layers that fit the pyramid."""
        file = self.backbone.weights_file
        self.backbone.load_pretrained(detector.get_submodule("backbone"), file)
        if file:
            self.head.load_pretrained(cast(RCNNHeadLayers, detector.get_submodule("roi_head")), file)
