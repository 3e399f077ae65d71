"""Named detectors. Variants are ``dataclasses.replace``; the comment above each says what it is and what to expect.

Where torchvision has a form of a detector, the plain name is that form and the paper's is ``..._paper``. AP is
published COCO val2017 unless said; what the ``*_mini`` presets reach in minutes is in ``docs/results.md``.
"""

from __future__ import annotations

from ..assembly.detector import Spec
from ..errors import UsageError, nearest
from . import detr, fast_rcnn, faster_rcnn, fcos, mask_rcnn, mini, rcnn, retinanet, spp_net, ssd, yolo
from .detr import *
from .fast_rcnn import *
from .faster_rcnn import *
from .fcos import *
from .mask_rcnn import *
from .mini import *
from .rcnn import *
from .retinanet import *
from .spp_net import *
from .ssd import *
from .yolo import *

# where the presets are, in the order they are listed
PAGES = (retinanet, fcos, ssd, yolo, detr, rcnn, spp_net, fast_rcnn, faster_rcnn, mask_rcnn, mini)


def names() -> list[str]:
    """All presets, page by page, in the order of each page."""
    return [name for page in PAGES for name in vars(page) if name in page.__all__]


def get(name: str) -> Spec:
    """The preset of that name. Raises ``UsageError`` with the nearest one."""
    value = globals().get(name)
    if isinstance(value, Spec):
        return value
    fix = f"{nearest(name, names())} Run `foveal models` to list them"
    raise UsageError(f"there is no preset {name!r}", fix=fix.strip())
