"""DETR presets (Carion et al. 2020)."""

from __future__ import annotations

from dataclasses import replace

from ..data.augment.transforms import ResizedCrop, ShortSide
from ..detectors.detr import DETR
from ..parts.backbones.small import SmallResNet
from ..parts.backbones.torchvision import Torchvision
from ..parts.heads.transformer import Transformer
from ..parts.resizing import Resize
from ..recipe import AdamW, Cosine, Recipe, Steps
from .recipes import FLIP

__all__ = ["detr_mini", "detr_r50", "detr_r50_dc5", "detr_r101", "detr_r101_dc5"]

# Of the original code: 500 epochs of COCO in batches of 64, a tenth of the rate from epoch 400 on, crowds left out.
_FIT = Recipe(
    epochs=500,
    batch=64,
    lr=1e-4,
    backbone_lr=0.1,
    solver=AdamW(weight_decay=1e-4),
    schedule=Steps((400.0,)),
    warmup_steps=0,
    clip=0.1,
    augment=(*FLIP, ResizedCrop(), ShortSide()),
    crowd="drop",
)

# As in the paper: 42.0 AP after 500 epochs (Carion et al. 2020). Not trained here: start from an ImageNet ResNet-50
# (backbone.weights=resnet50), and for the paper's short form fit.epochs=300 'fit.schedule=Steps((200.0,))'.
detr_r50 = DETR(fit=_FIT)

# DC5: the last stage of the ResNet is dilated instead of strided: four times the locations, 43.3 AP. Not trained here.
detr_r50_dc5 = replace(detr_r50, backbone=Torchvision("resnet50", dilated=True))

# ResNet-101: 43.5 AP. Not trained here.
detr_r101 = replace(detr_r50, backbone=Torchvision("resnet101"))

# ResNet-101 with DC5: 44.9 AP. Not trained here.
detr_r101_dc5 = replace(detr_r50, backbone=Torchvision("resnet101", dilated=True))

# Small enough to train from scratch. Apart from its size it differs from the paper by: queries anchored at locations of
# the image, which initially attend there (the paper's free queries had learned nothing after 2,000 images), more of
# them than objects, shorter wavelengths for a map of 10 x 10, one encoder layer, ten times the rate with a warm-up, a
# cosine schedule, averaged weights, no dropout, trainable norms. AP50 .788 on generated shapes of 160 px after 28
# minutes on two CPU cores:
#   python benchmarks/minis.py --presets detr_mini --images 17820 --minutes 29 --devices 2 --out minis-detr
detr_mini = DETR(
    input=Resize(160, 267, multiple=1),
    backbone=SmallResNet((32, 64, 128)),
    head=Transformer(
        queries=64,
        width=128,
        heads=4,
        encoder=1,
        decoder=3,
        hidden=256,
        dropout=0.0,
        turns=4.0,
        temperature=20.0,
        anchored=True,
    ),
    fit=Recipe(
        epochs=40,
        batch=12,
        lr=1.2e-3,
        solver=AdamW(weight_decay=1e-4),
        schedule=Cosine(),
        warmup_steps=200,
        clip=1.0,
        ema=0.998,
        augment=FLIP,
        crowd="drop",
        val_every=3,
    ),
)
