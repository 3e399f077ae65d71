"""Recipes that several presets share."""

from __future__ import annotations

from dataclasses import replace

from ..data.augment.transforms import HorizontalFlip
from ..detectors.darknet import FINE_TUNE
from ..recipe import SGD, Recipe, Steps

# ------------------------------------------------------------------------------------------------ recipes
# Detectron's 1x: 90,000 iterations of 16 images are 12 epochs of COCO; the steps are at 60,000 and 80,000.
FLIP = (HorizontalFlip(),)
ONE = Recipe(
    epochs=12,
    batch=16,
    lr=0.01,
    solver=SGD(0.9, 1e-4),
    schedule=Steps((2 / 3, 8 / 9)),
    augment=FLIP,
    warmup_factor=1 / 3,
)
ONE_REGION = replace(ONE, lr=0.02)
# torchvision's references: 26 epochs, steps after 16 and 22, linear warm-up of 1,000 iterations.
TV = replace(ONE, epochs=26, schedule=Steps((16.0, 22.0)), warmup_steps=1000, warmup_factor=0.001)
TV_REGION = replace(TV, lr=0.02)
# For a few hundred images and minutes on one machine: the recipe that fine-tunes Darknet's files, in smaller batches.
SMALL_FIT = replace(FINE_TUNE, batch=4)
# The same for the head of a detector on a pretrained network, which learns more slowly than the head.
LITE_FIT = replace(SMALL_FIT, lr=1e-3, backbone_lr=0.2)
