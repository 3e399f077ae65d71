"""Presets of the SSD family: SSD on VGG-16, SSDLite on MobileNetV3, SSD and DSSD on ResNet-101.

VOC figures are mAP on VOC 2007 test after training on 07+12 (``voc07`` protocol), COCO figures AP.
"""

from __future__ import annotations

from dataclasses import replace

from ..data.augment.transforms import Expand, HorizontalFlip, IoUCrop, PhotometricDistortion
from ..detectors.ssd import SSD, VGG_EXTRAS
from ..parts.backbones.torchvision import Torchvision
from ..parts.coders import Delta
from ..parts.heads.ssd import PerLevel, PredictionModule
from ..parts.matching.bipartite import BipartiteThenIoU
from ..parts.necks.dssd import Deconvolution
from ..parts.necks.ssd import Extra, Extras, L2Norm, ReducedFC
from ..parts.postprocess import NMS, Select
from ..parts.priors.default_boxes import DefaultBoxes
from ..parts.resizing import CAFFE_MEAN, LEVELS, Stretch
from ..recipe import SGD, Cosine, OnImages, Recipe, Steps

__all__ = [
    "dssd321_r101",
    "dssd513_r101",
    "ssd300_vgg16",
    "ssd300_vgg16_coco_paper",
    "ssd300_vgg16_paper",
    "ssd321_r101",
    "ssd512_vgg16",
    "ssd512_vgg16_coco_paper",
    "ssd512_vgg16_paper",
    "ssd513_r101",
    "ssdlite320_mobilenet_v3_large",
]

# ------------------------------------------------------------------------------------------------ recipes
# As in the paper: colors, zoom out, crops, flips; hue shifts by 18 of OpenCV's half degrees, 36 degrees here.
_AUGMENT = (PhotometricDistortion(hue=36.0), Expand(), IoUCrop(), HorizontalFlip())
# 120,000 iterations of 32 images are 232 epochs of the 16,551 of VOC 07+12; the steps are at 80,000 and 100,000.
_VOC = Recipe(
    epochs=232,
    batch=32,
    lr=1e-3,
    solver=SGD(0.9, 5e-4),
    schedule=Steps((2 / 3, 5 / 6)),
    warmup_steps=0,
    augment=_AUGMENT,
    bias_lr=2.0,
    bias_decay=False,
)
# 400,000 iterations are 108 epochs of the 118,287 of COCO; steps at 280,000 and 360,000. COCO has no difficult objects.
_COCO = replace(_VOC, epochs=108, schedule=Steps((0.7, 0.9)))
# torchvision's references.
_TV_AUGMENT = (PhotometricDistortion(), Expand(), IoUCrop(), HorizontalFlip())
_TV = Recipe(
    epochs=120,
    batch=32,
    lr=2e-3,
    solver=SGD(0.9, 5e-4),
    schedule=Steps((80.0, 110.0)),
    warmup_steps=1000,
    augment=_TV_AUGMENT,
)

# --------------------------------------------------------------------------------------------- SSD, VGG-16
_BOXES_300 = DefaultBoxes(steps=(8, 16, 32, 64, 100, 300))
_BOXES_512 = DefaultBoxes(
    (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6),
    ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    steps=(8, 16, 32, 64, 128, 256, 512),
)
_COCO_300 = replace(_BOXES_300, sizes=(21, 45, 99, 153, 207, 261, 315))
_COCO_512 = replace(_BOXES_512, sizes=(20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72))

# The released code: 77.2 mAP (the paper, without zoom out: 74.3).
ssd300_vgg16_paper = SSD(fit=_VOC)

# The same with the sizes of COCO: 25.1 AP on test-dev2015 (43.1 at IoU .5).
ssd300_vgg16_coco_paper = replace(ssd300_vgg16_paper, priors=_COCO_300, fit=_COCO)

# The released code with a seventh map: 79.8 mAP (the paper, without zoom out: 76.8).
ssd512_vgg16_paper = replace(
    ssd300_vgg16_paper,
    input=Stretch(512, 512, mean=CAFFE_MEAN, std=LEVELS),
    neck=replace(
        ssd300_vgg16_paper.neck,
        maps=(VGG_EXTRAS[0], *(Extra(128, 256),) * 3, Extra(128, 256, kernel=4, stride=1)),
    ),
    priors=_BOXES_512,
)

# The same with the sizes of COCO: 28.8 AP on test-dev2015 (48.5 at IoU .5).
ssd512_vgg16_coco_paper = replace(ssd512_vgg16_paper, priors=_COCO_512, fit=_COCO)

_TV_MEAN = (0.48235, 0.45882, 0.40784)


def _as_torchvision(paper: SSD, size: int, boxes: DefaultBoxes) -> SSD:
    """torchvision's rules on the network of ``paper``; its first stage, conv1, is frozen."""
    return replace(
        paper,
        input=Stretch(size, size, mean=_TV_MEAN, std=LEVELS),
        backbone=Torchvision("vgg16", returns=("features.22", "features.29"), frozen_stages=1, ceil=True),
        neck=replace(paper.neck, rescale=L2Norm(eps=1e-12, floor=True), fc=ReducedFC(subsample=False)),
        priors=replace(boxes, truncate=False, clip=True),
        task=replace(paper.task, matcher=BipartiteThenIoU(first="best"), coder=Delta((10, 10, 5, 5)), clip="before"),
        fit=_TV,
    )


# torchvision's ssd300_vgg16, for COCO: 25.1 AP.
ssd300_vgg16 = _as_torchvision(ssd300_vgg16_coco_paper, 300, _COCO_300)

# The same rules on the paper's SSD512; torchvision publishes no weights for it.
ssd512_vgg16 = _as_torchvision(ssd512_vgg16_coco_paper, 512, _COCO_512)

# --------------------------------------------------------------------------------------------- SSDLite
# torchvision's ssdlite320_mobilenet_v3_large, for COCO: 21.3 AP. Depthwise convolutions throughout.
ssdlite320_mobilenet_v3_large = replace(
    ssd300_vgg16,
    input=Stretch(320, 320, mean=(0.5,) * 3, std=(0.5,) * 3),
    backbone=Torchvision(
        "mobilenet_v3_large",
        returns=("features.13.block.0", "features.16"),
        frozen_stages=0,
        norm="batch",
        eps=1e-3,
        reduced=True,
    ),
    levels=(4, 5),
    neck=Extras(tuple(Extra(c // 2, c) for c in (512, 256, 256, 128)), block="light", norm="batch", eps=1e-3),
    head=PerLevel(light=True),
    priors=DefaultBoxes(
        (64, 112, 160, 208, 256, 304, 320),
        ((2, 3),) * 6,
        truncate=False,
        clip=True,  # .2 to .95 of the canvas, and 1
    ),
    task=replace(
        ssd300_vgg16.task,
        select=Select(score=0.001, per_level=None, per_class=300),
        suppress=NMS(0.55, per="class", top=300),
    ),
    # 8 processes of 24 images; the references augment with crops and flips alone
    fit=Recipe(
        epochs=660,
        batch=192,
        lr=0.15,
        solver=SGD(0.9, 4e-5),
        schedule=Cosine(),
        warmup_steps=1000,
        augment=(IoUCrop(), HorizontalFlip()),
    ),
)

# ------------------------------------------------------------------------------------- SSD, DSSD on ResNet-101
_SHRINK, _CUT = Extra(256, 1024, kernel=2, padding=0), Extra(256, 1024, stride=1, padding=0)
_EIGHT = (1.6, 2.0, 3.0)  # with 1, twice: eight boxes per location

# The authors' code: 77.5 mAP without flips at test time; the paper: 77.1 mAP, 28.0 AP on COCO test-dev.
# 80,000 iterations are 155 epochs of VOC 07+12; steps at 40,000 and 60,000.
ssd321_r101 = replace(
    ssd300_vgg16_paper,
    input=Stretch(321, 321, mean=CAFFE_MEAN, std=LEVELS),
    # res3b3 and res5c; conv5 is dilated instead of strided
    backbone=Torchvision(
        "resnet101", returns=("layer2", "layer4"), frozen_stages=0, norm="batch", eps=1e-3, ceil=True, dilated=True
    ),
    neck=Extras((_SHRINK, _SHRINK, _CUT, _CUT), block="residual", norm="batch", eps=1e-3),
    head=PerLevel((5, 5, 3), module=PredictionModule()),
    priors=DefaultBoxes(
        tuple(321 * p / 100 for p in (10, 20, 38, 56, 74, 92, 110)),
        (_EIGHT,) * 6,
        steps=(8, 16, 32, 64, 64, 321),
        starts=(2.5, 2.5, 10.5, 26.5, 90.5, 160.5),
    ),
    fit=replace(_VOC, epochs=155, schedule=Steps((0.5, 0.75))),
)

# The paper: 80.6 mAP, 31.2 AP on COCO test-dev.
ssd513_r101 = replace(
    ssd321_r101,
    input=Stretch(513, 513, mean=CAFFE_MEAN, std=LEVELS),
    neck=replace(ssd321_r101.neck, maps=(_SHRINK,) * 5),
    priors=DefaultBoxes(
        tuple(513 * p / 100 for p in (4, 10, 27, 44, 61, 78, 95, 112)),
        (_EIGHT,) * 7,
        steps=(8, 16, 32, 64, 128, 256, 513),
        starts=(2.5, 2.5, 10.5, 26.5, 58.5, 122.5, 256.5),
    ),
)

# Start from a trained SSD (--weights): 30,000 iterations (58 epochs) of the new layers, the others frozen.
_NEW_PARTS = OnImages(trains=("neck.deconv", "head"), epochs=58)
# Then 40,000 (77 epochs) of all layers at a tenth of the rate; the authors found this to help at 513 only.
_EVERYTHING = OnImages(epochs=77, lr=1e-4)
_DSSD = replace(_VOC, epochs=58, schedule=Steps((2 / 3,)))

# The authors' code: 78.6 mAP; the paper: 28.0 AP on COCO test-dev. `foveal train dssd321_r101 --weights RUN`, where
# RUN is a training run of ssd321_r101.
dssd321_r101 = replace(
    ssd321_r101,
    neck=replace(ssd321_r101.neck, deconv=Deconvolution()),
    fit=replace(_DSSD, stages=(_NEW_PARTS,)),
)

# The paper: 81.5 mAP, 33.2 AP on COCO test-dev. Start from ssd513_r101.
dssd513_r101 = replace(
    ssd513_r101,
    neck=replace(ssd513_r101.neck, deconv=Deconvolution()),
    fit=replace(_DSSD, stages=(_NEW_PARTS, _EVERYTHING)),
)
