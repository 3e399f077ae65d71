"""What a training starts from: a spec, and perhaps somebody's weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ..assembly.task import BoxTask
from ..config.fields import settings
from ..config.overrides import override
from ..detectors.darknet import DarknetDetector
from ..detectors.rcnn import BOXES
from ..detectors.ssd import CAFFE_MEAN, LEVELS
from ..detectors.yolo import BLACK, WHITE
from ..errors import FovealError, UsageError
from ..parts.backbones.base import BackboneSpec
from ..parts.backbones.caffe import CaffeSpec
from ..parts.backbones.darknet import Darknet
from ..parts.backbones.image_pyramid import ImagePyramid
from ..parts.darknet.weights import is_darknet
from ..parts.heads.rcnn import RCNNHeadLayers
from ..parts.layers.norms import FrozenBatchNorm
from ..parts.losses.normalizers import Sampled
from ..parts.resizing import IMAGENET_MEAN, IMAGENET_STD
from ..parts.samplers import All
from ..weights.cache import PUBLISHED, is_alias, is_published
from ..weights.open import StateDict, is_classifier, read_state
from .load import find
from .transfer import LoadReport, pretrained, transfer

if TYPE_CHECKING:
    from ..assembly.detector import Detector, Spec


def find_spec(source: Spec | str | Path) -> tuple[Spec, str | Path | None]:
    """A spec as it is; a preset by name; the spec of a Darknet cfg; of anything else that is a model (a run, a
    checkpoint, a Hugging Face folder, a weights file, an alias) its spec, and the source again: its weights."""
    if not isinstance(source, str | Path):
        return source, None
    path = Path(source)
    if path.suffix == ".cfg" and path.is_file():
        return DarknetDetector.from_cfg(source), None
    from .. import presets

    name = str(source)
    if path.exists() or (name not in presets.names() and is_alias(name)):
        return find(source).spec(), source
    return presets.get(name), None


def begin(spec: Spec, detector: Detector, weights: str | Path | None) -> tuple[LoadReport | None, list[str]]:
    """Puts in the weights that a new run begins with: ``weights``, else those that the spec names, if any.

    Returns what became of them, and what a person should know of it.
    """
    taken = load_backbone(spec, detector) if weights is None else load_weights(detector, weights)
    said = [] if taken is None else taken.lines()
    if weights is not None:
        return taken, said
    if line := normalization_mismatch(spec):
        said.append(line)
    if frozen_random_backbone(spec, detector):
        said.append(
            "warning: the backbone starts from random weights, and a part of it is frozen and will never learn; "
            "name a file in backbone.weights, or set backbone.frozen_stages=0 and backbone.norm=batch"
        )
    if parts := frozen_random_parts(spec, detector):
        said.append(
            f"warning: the first stage keeps {', '.join(parts)} still, at random weights; "
            "begin from a trained detector: --weights RUN"
        )
    return taken, said


def load_weights(detector: Detector, source: str | Path) -> LoadReport:
    """Puts a detector's weights in as far as names, shapes and classes agree, and says how far that is.

    A file of a classification network goes into the backbone. A head for other classes keeps its random start. Raises
    :class:`FovealError` where nothing fits.
    """
    cfg = detector.spec.cfg if isinstance(detector.spec, DarknetDetector) and is_darknet(source) else None
    if cfg is None and is_darknet(source):
        raise FovealError(
            f"are Darknet's weights, which fit its own networks and no {type(detector.spec).__name__}",
            path=source,
            fix=f"Train their cfg: foveal train FILE.cfg --weights {source}",
        )
    state = read_state(source) if cfg is None and Path(source).is_file() else None
    if _is_backbone(source, state):
        return _into_backbone(detector, source)
    found = find(source, cfg=cfg, state=state)
    return transfer(detector, found.state, source, found.classes)


def _is_backbone(source: str | Path, state: StateDict | None) -> bool:
    """Whether it is a classification network's: a file's with this state, or a published one by name."""
    if state is not None:
        return is_classifier(state)
    return not Path(source).exists() and is_published(str(source)) and not is_alias(str(source))


def _into_backbone(detector: Detector, source: str | Path) -> LoadReport:
    spec = detector.spec
    backbone = getattr(spec, "backbone", None)
    if not isinstance(backbone, BackboneSpec) or "weights" not in settings(type(backbone)):
        raise FovealError(
            f"is a classification network's, and {type(spec).__name__} has no backbone that reads one", path=source
        )
    try:
        named: Spec = override(spec, [f"backbone.weights={json.dumps(str(source))}"])
    except UsageError as error:  # a backbone that takes none
        raise UsageError(error.message, path=source, where=error.where, fix=error.fix) from None
    return pretrained(detector, lambda: named.load_pretrained(detector), source)


def load_backbone(spec: Spec, detector: Detector) -> LoadReport | None:
    """Reads the weights that a spec itself names, if any, and says what they were for."""
    backbone = getattr(spec, "backbone", None)
    named = getattr(spec, "weights", None) or getattr(backbone, "weights_file", None)
    if named is None:
        spec.load_pretrained(detector)
        return None
    return pretrained(detector, lambda: spec.load_pretrained(detector), named)


def frozen_random_backbone(spec: Spec, detector: Detector) -> bool:
    """Whether the backbone has no weights to start from, and frozen layers that would keep their random ones."""
    backbone = getattr(spec, "backbone", None)
    if getattr(backbone, "weights", None) is not None:
        return False
    frozen = (not p.requires_grad for name, p in detector.named_parameters() if name.startswith("backbone."))
    return any(frozen) or any(isinstance(m, FrozenBatchNorm) for m in detector.modules())


def normalization_mismatch(spec: Spec) -> str | None:
    """What to say where the backbone's weights were trained on pixels normalized otherwise; None: they were not."""
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


def frozen_random_parts(spec: Spec, detector: Detector) -> list[str]:
    """The parts that start from random weights and keep still in the first stage: it is made for a trained detector.

    R-CNN's box layer is none of them: it starts with zeros, and leaves boxes as proposed unless a stage fits it.
    """
    first, backbone = spec.fit.stages[0], getattr(spec, "backbone", None)
    read = ("backbone.",) if getattr(backbone, "weights", None) is not None else ()
    # solved by a later stage, or of the task that has no loss in this one
    later = (stage for stage in spec.fit.stages if stage.inputs == "features" or first.learning)
    awaited = tuple(path for stage in later for path in stage.trains)
    if isinstance(getattr(detector, "roi_head", None), RCNNHeadLayers):
        awaited += (BOXES,)
    still = (
        name
        for name, parameter in detector.named_parameters()
        if parameter.requires_grad and not name.startswith((*first.trains, *read, *awaited))
    )
    return sorted({".".join(name.split(".")[: 1 + name.startswith("neck.")]) for name in still})


def diluted_box_loss(spec: Spec) -> list[str]:
    """The tasks (``rpn``, ``task``) whose box loss is divided by all priors, because nothing is sampled away."""
    tasks = {name: getattr(spec, name, None) for name in ("rpn", "task")}
    return [
        name
        for name, task in tasks.items()
        if isinstance(task, BoxTask)
        and isinstance(task.sampler, All)
        and isinstance(getattr(task.box_loss, "normalizer", None), Sampled)
    ]
