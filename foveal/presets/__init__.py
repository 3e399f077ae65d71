"""Named detectors. Variants use ``dataclasses.replace``; the comment above each describes it and its expected score.

Where torchvision has a form of a detector, the plain name is that form and the paper's is ``..._paper``. AP is
published COCO val2017 unless noted; the scores of the ``*_mini`` presets are in ``docs/results.md``. The presets are
imported on first use of any of them: :mod:`foveal.presets.catalogue` lists them without importing torch.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, nearest

if TYPE_CHECKING:
    from ..assembly.detector import Spec
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

# the modules of the presets, in the order they are listed
PAGES = (
    "retinanet",
    "fcos",
    "ssd",
    "yolo",
    "detr",
    "rcnn",
    "spp_net",
    "fast_rcnn",
    "faster_rcnn",
    "mask_rcnn",
    "mini",
)


@functools.cache
def _all() -> dict[str, Spec]:
    """All presets by name, module by module, in the order of each."""
    pages = [importlib.import_module(f".{page}", __name__) for page in PAGES]
    return {name: value for page in pages for name, value in vars(page).items() if name in page.__all__}


def names() -> list[str]:
    """The names of all presets, module by module, in the order of each."""
    return list(_all())


def get(name: str) -> Spec:
    """The preset of that name. Raises ``UsageError`` with the most similar name."""
    if name in _all():
        return _all()[name]
    fix = f"{nearest(name, names())} Run `foveal models` to list them".strip()
    raise UsageError(f"there is no preset {name!r}", fix=fix)


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        if name in PAGES:
            return importlib.import_module(f".{name}", __name__)
        if name in _all():
            return _all()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *names()})
