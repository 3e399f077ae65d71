"""YOLO presets, versions 1 to 3, in the forms of the papers and of Darknet's files."""

from __future__ import annotations

from dataclasses import replace

from ..data.augment.transforms import HorizontalFlip, Jitter, MultiScale, PhotometricDistortion
from ..detectors.yolo import V1_TASK, V2_OBJECTNESS, V2_TASK, YOLO
from ..parts.backbones.darknet import Darknet
from ..parts.heads.yolo import CellHead
from ..parts.heads.yolo_v1 import GridHead
from ..parts.necks.fpn import SingleLevel
from ..parts.necks.yolo import Passthrough, Upsampling
from ..parts.priors.cells import Cells
from ..parts.resizing import BLACK, WHITE, Letterbox, Stretch
from ..recipe import SGD, Recipe, Steps

__all__ = [
    "yolo_v1",
    "yolo_v1_local",
    "yolo_v1_tiny",
    "yolo_v2",
    "yolo_v2_coco",
    "yolo_v2_tiny",
    "yolo_v2_tiny_coco",
    "yolo_v3",
    "yolo_v3_spp",
    "yolo_v3_tiny",
]

# ---------------------------------------------------------------------------------------------------- YOLO
# Darknet's recipe: batches of 64, a burn-in with the fourth power, crops that shift every side.
_DARKNET = Recipe(
    batch=64,
    lr=1e-3,
    solver=SGD(0.9, 5e-4),
    warmup_steps=1000,
    warmup_factor=0.0,
    warmup_power=4.0,
    norm_decay=False,
    bias_decay=False,
    difficult="drop",
    augment=(
        Jitter(0.3),
        HorizontalFlip(),
        PhotometricDistortion(0.0, contrast=(1 / 1.5, 1.5), saturation=(1 / 1.5, 1.5), hue=36.0, p=1.0),
    ),
)
_SCALES = MultiScale(tuple(range(320, 609, 32)))
_DARKNET_VOC = replace(  # 80,200 iterations on VOC 2007 + 2012, steps at 40,000 and 60,000
    _DARKNET, epochs=310, schedule=Steps((0.4988, 0.7481)), augment=(*_DARKNET.augment, _SCALES)
)
_DARKNET_COCO = replace(  # 500,200 iterations on COCO, steps at 400,000 and 450,000
    _DARKNET, epochs=273, schedule=Steps((0.7997, 0.8996)), augment=(*_DARKNET.augment, _SCALES), difficult="learn"
)
_V1_CELLS = Cells((((1.0, 1.0), (1.0, 1.0)),), unit="cells")
_V1_FIT = replace(  # 40,000 iterations on VOC 2007 + 2012: .001, up to .01 by iteration 600, down at 20,000 and 30,000
    _DARKNET,
    epochs=155,
    lr=0.01,
    schedule=Steps((0.5, 0.75)),
    warmup_steps=600,
    warmup_factor=0.1,
    warmup_power=1.0,
    augment=(Jitter(0.2), *_DARKNET.augment[1:]),
)

# As in the paper: 24 convolutions without batch norm and two fully connected layers. 63.4 mAP on VOC 2007 test.
yolo_v1 = YOLO(
    input=Stretch(448, 448, mean=BLACK, std=WHITE),
    backbone=Darknet("yolov1-plain"),
    levels=(6,),
    neck=SingleLevel(),
    head=GridHead(side=7, hidden=4096),
    cells=_V1_CELLS,
    task=V1_TASK,
    fit=_V1_FIT,
)

# As in the current files: batch norm, a local layer instead of the hidden one, three boxes per cell.
yolo_v1_local = replace(
    yolo_v1,
    backbone=Darknet("yolov1"),
    head=GridHead(side=7, hidden=None, local=256),
    cells=Cells((((1.0, 1.0),) * 3,), unit="cells"),
)

# Eight convolutions straight into the output layer.
yolo_v1_tiny = replace(yolo_v1, backbone=Darknet("yolov1-tiny"), head=GridHead(side=7, hidden=None, dropout=0.0))

# Darknet-19, a passthrough of a finer map, five shapes: 76.8 mAP on VOC 2007 test at 416, 78.6 at 544.
yolo_v2 = YOLO(
    backbone=Darknet("darknet19"),
    levels=(4, 5),
    neck=Passthrough(64, 1024),
    head=CellHead((1024,)),
    cells=Cells(
        (((1.3221, 1.73145), (3.19275, 4.00944), (5.05587, 8.09892), (9.47112, 4.84053), (11.2364, 10.0071)),),
        unit="cells",
    ),
    task=V2_TASK,
    fit=_DARKNET_VOC,
)

# The same with the shapes of COCO: 21.6 AP on test-dev.
yolo_v2_coco = replace(
    yolo_v2,
    cells=Cells(
        (((0.57273, 0.677385), (1.87446, 2.06253), (3.33843, 5.47434), (7.88282, 3.52778), (9.77052, 9.16828)),),
        unit="cells",
    ),
    fit=_DARKNET_COCO,
)

# Eight convolutions, no finer map; its own shapes.
yolo_v2_tiny = replace(
    yolo_v2,
    backbone=Darknet("yolov2-tiny"),
    levels=(5,),
    neck=SingleLevel(),
    cells=Cells((((1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52)),), unit="cells"),
)

# The same for COCO: 512 channels in the last block, shapes as of yolo_v2_coco; the target of its objectness is 1.
yolo_v2_tiny_coco = replace(
    yolo_v2_coco,
    backbone=Darknet("yolov2-tiny"),
    levels=(5,),
    neck=SingleLevel(),
    head=CellHead((512,)),
    task=replace(V2_TASK, quality=replace(V2_OBJECTNESS, target="one")),
)

# Darknet-53, three levels, nine shapes, on COCO: 31.0 AP on test-dev at 416, 33.0 at 608 (55.3 and 57.9 AP50).
yolo_v3 = YOLO(backbone=Darknet("darknet53"), fit=_DARKNET_COCO)

# With pooling over windows of 5, 9 and 13 at the coarsest level, at 608.
yolo_v3_spp = replace(yolo_v3, neck=Upsampling(pooled=True), input=Letterbox(608, 608, mean=BLACK, std=WHITE))

# Two levels on seven convolutions.
yolo_v3_tiny = replace(
    yolo_v3,
    backbone=Darknet("yolov2-tiny"),
    levels=(4, 5),
    neck=Upsampling((128, 256), (0, 1)),
    head=CellHead((256, 512)),
    cells=Cells((((10, 14), (23, 27), (37, 58)), ((81, 82), (135, 169), (344, 319)))),
)
