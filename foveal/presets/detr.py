"""DETR."""

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

# The original code's: 500 epochs of COCO in batches of 64, a tenth of the rate from epoch 400 on. Crowds are left out.
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

# The paper's: 42.0 AP after 500 epochs (Carion et al. 2020). Not trained here: start from an ImageNet ResNet-50
# (backbone.weights=resnet50), and for the paper's short form fit.epochs=300 'fit.schedule=Steps((200.0,))'.
detr_r50 = DETR(fit=_FIT)

# The last stage of the ResNet with holes in place of its stride: four times the places, 43.3 AP. Not trained here.
detr_r50_dc5 = replace(detr_r50, backbone=Torchvision("resnet50", dilated=True))

# ResNet-101: 43.5 AP. Not trained here.
detr_r101 = replace(detr_r50, backbone=Torchvision("resnet101"))

# ResNet-101 with holes: 44.9 AP. Not trained here.
detr_r101_dc5 = replace(detr_r50, backbone=Torchvision("resnet101", dilated=True))

# Small enough to learn from nothing. What it needs beside its size, against the paper: queries that stand at places of
# the picture and begin by looking there (the paper's free questions had learned nothing after 2,000 pictures), more of
# them than objects, shorter waves for a map of 10 x 10, one encoder layer, ten times the rate with a warm-up, a cosine,
# averaged weights, no dropout, norms that learn. AP50 .788 on generated shapes of 160 px after 28 minutes on two cores:
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
