"""What a training starts from: a spec, and perhaps somebody's weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ..detectors.darknet import DarknetDetector
from ..detectors.ssd import CAFFE_MEAN, LEVELS
from ..detectors.yolo import BLACK, WHITE
from ..errors import FovealError
from ..loading import find
from ..parts.backbone_base import BackboneSpec
from ..parts.caffe_nets import CaffeSpec
from ..parts.darknet import Darknet
from ..parts.image_pyramid import ImagePyramid
from ..parts.inputs import IMAGENET_MEAN, IMAGENET_STD
from ..parts.normalizers import KeptRows
from ..parts.norms import FrozenBatchNorm
from ..parts.samplers import All
from ..task import BoxTask
from ..weights.darknet import is_darknet
from ..weights.published import PUBLISHED
from .checkpoint import load_checkpoint

if TYPE_CHECKING:
    from ..detectors.base import Detector, Spec


def find_spec(source: Spec | str | Path) -> tuple[Spec, Path | None]:
    """A spec as it is; a preset by name; the spec of a run or checkpoint folder, with that folder; of a Darknet cfg."""
    if not isinstance(source, str | Path):
        return source, None
    if Path(source).is_dir():
        spec: Spec = load_checkpoint(source).spec
        return spec, Path(source)
    if Path(source).suffix == ".cfg" and Path(source).is_file():
        return DarknetDetector.from_cfg(source), None
    from .. import presets

    return presets.get(str(source)), None


def load_weights(detector: Detector, source: str | Path) -> str:
    """Puts a detector's weights in as far as names and shapes agree, and says how far that is.

    A head for other classes keeps its random start. Raises :class:`FovealError` where nothing fits.
    """
    cfg = detector.spec.cfg if isinstance(detector.spec, DarknetDetector) and is_darknet(source) else None
    if cfg is None and is_darknet(source):
        raise FovealError(
            f"are Darknet's weights, which fit its own networks and no {type(detector.spec).__name__}",
            path=source,
            fix=f"Train their cfg: foveal train FILE.cfg --weights {source}",
        )
    state = find(source, cfg=cfg).state
    own: dict[str, Tensor] = detector.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    bad = [name for name, value in fitting.items() if not value.isfinite().all()]
    if bad:
        raise FovealError(f"holds values that are not finite: {', '.join(bad[:3])}", path=source)
    learned = {name for name, _ in detector.named_parameters()}
    if not learned & fitting.keys():
        raise FovealError("no weight fits this detector", path=source, fix="Start from the same kind of detector")
    detector.load_state_dict(fitting, strict=False)
    left = sorted(learned - fitting.keys())
    shown = ", ".join(left[:6]) + (f" and {len(left) - 6} more" if len(left) > 6 else "")
    note = f"; left at their random start: {shown}" if left else ""
    return f"{source}: {len(learned) - len(left)} of {len(learned)} parameters taken over{note}"


def stuck(spec: Spec, detector: Detector) -> bool:
    """Whether the backbone has no weights to start from, and frozen layers that would keep their random ones."""
    backbone = getattr(spec, "backbone", None)
    if getattr(backbone, "weights", None) is not None:
        return False
    frozen = (not p.requires_grad for name, p in detector.named_parameters() if name.startswith("backbone."))
    return any(frozen) or any(isinstance(m, FrozenBatchNorm) for m in detector.modules())


def other_pixels(spec: Spec) -> str | None:
    """What to say where the backbone's weights were trained on pixels normalised otherwise; None: they were not."""
    backbone = getattr(spec, "backbone", None)
    if isinstance(backbone, ImagePyramid):
        backbone = backbone.backbone
    if not isinstance(backbone, BackboneSpec) or backbone.weights_file is None:
        return None
    file = Path(backbone.weights_file).name
    if isinstance(backbone, Darknet):
        mean, std = BLACK, WHITE
    elif isinstance(backbone, CaffeSpec) or any(
        entry.caffe_pixels and entry.file == file for entry in PUBLISHED.values()
    ):
        mean, std = CAFFE_MEAN, LEVELS
    else:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    found = (*spec.input.mean, *spec.input.std)
    if all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(found, (*mean, *std), strict=True)):
        return None  # torchvision writes Caffe's mean with five digits
    wanted = f"input.mean={mean} input.std={std}".replace(", ", ",")
    return f"warning: {type(backbone).__name__}'s weights were trained on other pixels; set {wanted}"


def resting_at_random(spec: Spec, detector: Detector) -> list[str]:
    """The parts that start from random weights and keep still in the first stage: it is made for a trained detector."""
    first, backbone = spec.fit.stages[0], getattr(spec, "backbone", None)
    read = ("backbone.",) if getattr(backbone, "weights", None) is not None else ()
    # solved by a later stage, or of the task that has no loss in this one
    later = (stage for stage in spec.fit.stages if stage.inputs == "features" or first.learning)
    awaited = tuple(path for stage in later for path in stage.trains)
    still = (
        name
        for name, parameter in detector.named_parameters()
        if parameter.requires_grad and not name.startswith((*first.trains, *read, *awaited))
    )
    return sorted({".".join(name.split(".")[: 1 + name.startswith("neck.")]) for name in still})


def diluted(spec: Spec) -> list[str]:
    """The tasks (``rpn``, ``task``) whose box loss is divided by all priors, because nothing is sampled away."""
    tasks = {name: getattr(spec, name, None) for name in ("rpn", "task")}
    return [
        name
        for name, task in tasks.items()
        if isinstance(task, BoxTask)
        and isinstance(task.sampler, All)
        and isinstance(getattr(task.box_loss, "normalizer", None), KeptRows)
    ]
