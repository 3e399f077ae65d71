"""FCOS presets (Tian et al. 2019, 2020)."""

from __future__ import annotations

from dataclasses import replace

from ..detectors.fcos import FCOS
from ..parts.coders import LTRB
from ..parts.heads.dense import PointTower
from ..parts.losses.box import IoU
from ..parts.losses.centerness import Centerness
from ..parts.matching.points import PointMatcher
from ..parts.postprocess import Select
from ..parts.priors.anchors import Anchors
from .recipes import ONE, TV

__all__ = ["fcos_r50_fpn", "fcos_r50_fpn_improved", "fcos_r50_fpn_paper"]

# --------------------------------------------------------------------------------------------------- FCOS
# The authors' improved form: center sampling, GIoU. 38.7 AP (their 1x).
fcos_r50_fpn_improved = FCOS(fit=ONE)

# The first version of the paper: points anywhere inside an object, -ln IoU, exp(s x) pixels. 37.1 AP (1x).
fcos_r50_fpn_paper = replace(
    fcos_r50_fpn_improved,
    head=PointTower(sides="exp", scales=True, quality_on="classes"),
    task=replace(
        fcos_r50_fpn_improved.task, matcher=PointMatcher(radius=None), box_loss=IoU("log"), coder=LTRB(normalize=False)
    ),
)

# torchvision's fcos_resnet50_fpn: corners as points, no scales, sqrt(class x center-ness) above .2. 39.2 AP.
fcos_r50_fpn = FCOS(
    head=PointTower(),
    points=Anchors(((8,), (16,), (32,), (64,), (128,)), (1.0,), rounding="corners", grid="floor"),
    task=replace(fcos_r50_fpn_improved.task, quality=Centerness(), select=Select(score=0.2, per_level=1000)),
    fit=TV,
)
