"""YOLO, versions 1 to 3 (Redmon et al. 2016, Redmon and Farhadi 2017, 2018), with Darknet's losses.

A network of leaky blocks -> at every cell of a grid a few boxes, each with an objectness and class scores. The cell
that contains an object's center predicts it. The versions differ in their parts, not in the assembly:

- v1: one 7 x 7 grid, fully connected head, two boxes a cell without anchors, everything a squared error;
- v2: fully convolutional, anchors from k-means, a finer map passed through, softmax classes;
- v3: three grids, logistic classes and objectness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..assembly.detector import Spec
from ..assembly.one_stage import OneStage
from ..assembly.task import BoxTask
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.torchvision import Torchvision
from ..parts.coders import GridCoder
from ..parts.heads.yolo import CellHead
from ..parts.heads.yolo_v1 import GridHead
from ..parts.losses.classification import BinaryCrossEntropy, CrossEntropy, SquaredError
from ..parts.losses.normalizers import PerImage
from ..parts.losses.objectness import Objectness
from ..parts.losses.yolo import YOLOBoxLoss
from ..parts.matching.cells import Responsible, ShapeMatcher
from ..parts.necks.fpn import Identity, SingleLevel
from ..parts.necks.yolo import Passthrough, Upsampling
from ..parts.postprocess import NMS, Select
from ..parts.priors.cells import Cells
from ..parts.resizing import BLACK, WHITE, Input, Letterbox
from ..recipe import Recipe

# Negatives that overlap an object by more than .7 are ignored in the objectness loss (COCO; .5 for VOC).
V3_TASK = BoxTask(
    matcher=ShapeMatcher(),
    cls_loss=BinaryCrossEntropy(normalizer=PerImage(), background=False),
    box_loss=YOLOBoxLoss(center="logistic"),
    coder=GridCoder(),
    quality=Objectness(ignore=0.7),
    select=Select(score=0.005, per_level=1000),
    suppress=NMS(iou=0.45, per="class", top=100),
)

# Objectness learns the IoU, with weight 5; for the first 12,800 images every box is pulled to its anchor.
V2_OBJECTNESS = Objectness("squared", target="iou", ignore=0.6, positive=5.0)
V2_TASK = replace(
    V3_TASK,
    cls_loss=CrossEntropy(background=False, normalizer=PerImage()),
    box_loss=YOLOBoxLoss(center="squared", warmup_images=12_800),
    quality=V2_OBJECTNESS,
)

# Boxes have weight 5, objectness without an object .5.
V1_TASK = replace(
    V3_TASK,
    matcher=Responsible(),
    cls_loss=SquaredError(),
    box_loss=YOLOBoxLoss(center="squared", small_box_weight=False, weight=5.0),
    coder=GridCoder(logistic=False, sides="square"),
    quality=Objectness("linear", target="iou", negative=0.5),
    select=Select(score=0.001, per_level=1000),
    suppress=NMS(iou=0.5, per="class", top=100),
)

V3_SHAPES = (  # input pixels, finest level first
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)


@dataclass(frozen=True)
class YOLO(Spec):
    """YOLOv3's parts by default; the presets hold those of the other versions."""

    input: Input = Letterbox(416, 416, mean=BLACK, std=WHITE)  # the resize rule of prediction and evaluation
    backbone: BackboneSpec = Torchvision("resnet50")
    levels: tuple[int, ...] = (3, 4, 5)  # of the backbone: level l has stride 2^l
    neck: Upsampling | Passthrough | SingleLevel | Identity = Upsampling()
    head: CellHead | GridHead = CellHead()
    cells: Cells = Cells(V3_SHAPES)  # the anchors of each level, finest first
    task: BoxTask = V3_TASK
    fit: Recipe = Recipe()  # the recipe it is trained by

    @property
    def grid(self) -> Cells:
        return self.cells

    def build(self, classes: Sequence[str]) -> OneStage:
        """The detector with random weights."""
        backbone = self.backbone.build(levels=self.levels)
        neck = self.neck.build(backbone.channels, backbone.strides)
        loss, count = self.task.cls_loss, len(classes)
        head = self.head.build(neck.channels, self.cells.per_location, loss.channels(count), loss.bias(count))
        return OneStage(self, classes, backbone, neck, head, self.cells, self.task)
