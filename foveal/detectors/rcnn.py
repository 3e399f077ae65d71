"""R-CNN (Girshick et al., CVPR 2014).

external proposals -> each box with its context warped to the CNN's input -> CNN -> class layer on the output of the
fully connected layers, box layer on the last map -> per-class NMS

It is ``TwoStage`` with the pixels as features, ``Warp`` as pool and the CNN as head. Its training differs: the CNN and
a softmax on windows of the whole set, then SVMs instead of the softmax, then a ridge regression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..assembly.detector import Detector, Spec
from ..assembly.proposers import ExternalProposals
from ..assembly.task import BoxTask
from ..assembly.two_stage import TwoStage
from ..errors import UsageError
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.caffe import CaffeNet
from ..parts.backbones.pixels import IdentityBackbone
from ..parts.coders import Delta
from ..parts.heads.rcnn import RCNNHead, RCNNHeadLayers
from ..parts.losses.box import SmoothL1
from ..parts.losses.svm import SoftmaxOrSVM
from ..parts.matching.iou import IoUMatcher
from ..parts.necks.fpn import Identity
from ..parts.pooling.warp import Warp
from ..parts.postprocess import NMS, Select
from ..parts.resizing import Input, Original
from ..parts.samplers import Balanced
from ..parts.selective_search import ProposalSource, SelectiveSearch
from ..recipe import SGD, SVM, OnWindows, Recipe, Ridge, Solve, Steps

CLASSES, BOXES = "roi_head.predictor.cls_score", "roi_head.predictor.bbox_pred"

# At most 100 boxes a class and image before NMS, as in the released code, which also raises a threshold over the whole
# test set until some 40 a class and image remain; here images are independent.
WINDOW_TASK = BoxTask(
    matcher=IoUMatcher(0.5, 0.5, low_quality=False),
    cls_loss=SoftmaxOrSVM(),
    box_loss=SmoothL1(beta=1.0, weight=0.0),  # boxes are fitted in closed form by a stage of their own
    sampler=Balanced(128, 0.25),
    coder=Delta(),
    select=Select(score=0.01, per_level=None, per_class=100, min_size=1e-2),
    suppress=NMS(iou=0.3, per="class", top=2000),
)

FINE_TUNE = OnWindows(trains=("roi_head.backbone", "roi_head.trunk", CLASSES))
CLASS_SVMS = Solve(SVM(), trains=(CLASSES,))
BOX_RIDGE = Solve(Ridge(), trains=(BOXES,))

# SGD .001 on 128 windows, ten times that for the new class layer; a tenth after 20,000 iterations. An epoch is 64
# windows an image: 2,505 iterations on VOC 2007 trainval; 28 epochs are the 70,000 of the paper.
RCNN_FIT = Recipe(
    epochs=28,
    batch=128,
    lr=0.001,
    predictor_lr=10.0,
    solver=SGD(0.9, 5e-4),
    schedule=Steps((8.0, 16.0, 24.0)),
    warmup_steps=0,
    val_every=28,
    difficult="ignore",
    stages=(FINE_TUNE, CLASS_SVMS, BOX_RIDGE),
)


@dataclass(frozen=True)
class RCNN(Spec):
    """The paper's form by default, on CaffeNet. Ablations: ``fit.stages`` without the SVMs, or without the boxes."""

    input: Input = Original()  # the resize rule of prediction and evaluation: none, since the crops are resized
    proposals: ProposalSource = SelectiveSearch()  # the source of proposals
    backbone: BackboneSpec = CaffeNet()  # the CNN of each crop, up to its last map
    pool: Warp = Warp(227)
    cells: int = 6  # side of the last map; a map of another size is averaged to it
    head: RCNNHead = RCNNHead()
    roi: BoxTask = WINDOW_TASK  # classification and box refinement
    fit: Recipe = RCNN_FIT  # the recipe it is trained by

    def __post_init__(self) -> None:
        if self.cells < 1:
            raise UsageError(f"RCNN: cells is {self.cells}; the last map has a side of at least 1")

    @property
    def source(self) -> ProposalSource:
        return self.proposals

    @property
    def zero_initialized(self) -> tuple[str, ...]:
        return (BOXES,)

    def build(self, classes: Sequence[str]) -> TwoStage:
        """The detector with random weights."""
        cnn: Any = self.backbone.build()  # its last map, whatever the stride
        pixels, loss, count = IdentityBackbone(), self.roi.cls_loss, len(classes)
        neck = Identity().build(pixels.channels, pixels.strides)
        head = self.head.build(cnn.channels[-1], self.cells, loss.channels(count), count, loss.bias(count), cnn)
        return TwoStage(
            self,
            classes,
            backbone=pixels,
            neck=neck,
            proposer=ExternalProposals(self.proposals),
            pool=self.pool,
            roi_head=head,
            roi=self.roi,
            append_gt=False,
        )

    def load_pretrained(self, detector: Detector) -> None:
        """Reads the CNN's weights file, where it names one, its connected layers included."""
        head, file = cast(RCNNHeadLayers, detector.get_submodule("roi_head")), self.backbone.weights_file
        self.backbone.load_pretrained(head.backbone, file)
        if file:
            self.head.load_pretrained(head, file)
