"""The initial weights of a training run: from a spec's own weights file or from another detector, with warnings."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.show import show
from ..errors import FovealError, UsageError
from ..parts.darknet.cfg import read_names
from ..parts.darknet.weights import is_darknet
from ..parts.layers.norms import FrozenBatchNorm
from ..parts.resizing import UNIT_PIXELS, PixelStatistics
from ..recipe import Solve
from ..weights.cache import is_alias, is_published
from ..weights.imagenet.packages import IMAGENET
from ..weights.open import header, is_classifier, read_weights, sniff
from ..weights.reading.entries import Found, WeightsFile, choose_state, record_notes, usual
from .class_columns import COCO_80
from .foreign.settings import function_settings
from .load import ResolvedModel, find
from .transfer import LoadReport, pretrained, transfer

if TYPE_CHECKING:
    from ..assembly.detector import Detector, Spec
    from .content import Content


def find_spec(source: Spec | str | Path, parts: Sequence[type] = ()) -> tuple[Spec, str | Path | None]:
    """The spec that ``source`` stands for, and where its weights are (None: it stands for none).

    ``source``: a spec; a preset's name; a Darknet cfg; or a model (a run, a checkpoint, a Hugging Face folder, a
    weights file, an alias), which is the source of the weights too. ``parts``: classes of your own
    that the spec names. Raises :class:`FovealError` for anything else.
    """
    if not isinstance(source, str | Path):
        return source, None
    path = Path(source)
    if path.suffix.lower() == ".cfg" and not path.exists():
        raise FovealError("there is no such file", path=path, fix="Give the path of a Darknet cfg")
    if path.is_file() and (path.suffix.lower() == ".cfg" or sniff(path).startswith("a Darknet cfg")):
        from ..detectors.darknet import DarknetDetector

        return DarknetDetector.from_cfg(source), None
    from .. import presets

    name = str(source)
    if path.exists() or (name not in presets.names() and is_alias(name)):
        return find(source, parts=parts).spec(), source
    return presets.get(name), None


def begin(
    spec: Spec, detector: Detector, weights: str | Path | None, parts: Sequence[type] = ()
) -> tuple[LoadReport | None, list[str]]:
    """Loads the initial weights of a new run: ``weights``, else those that the spec names, if any.

    Returns a report of what was loaded, and the lines to print: the report's, and warnings.
    """
    notes = [f"note: {note}" for note in spec.notes(training=True)]
    if weights is not None:
        report = load_weights(detector, weights, parts)
        return report, [*report.lines(), *notes]
    loaded = load_backbone(spec, detector)
    return loaded, [*(loaded.lines() if loaded else ()), *notes, *_warnings(spec, detector)]


def _warnings(spec: Spec, detector: Detector) -> Iterator[str]:
    if line := normalization_mismatch(spec):
        yield line
    if frozen_random_backbone(spec, detector):
        settings = "backbone.weights, or set backbone.frozen_stages=0 and backbone.norm=batch"
        if spec.backbone is None:
            settings = "weights, or set frozen=0"
        yield (
            "warning: the backbone starts from random weights, and a part of it is frozen and will never learn; "
            f"name a file in {settings}"
        )
    if parts := frozen_random_parts(spec, detector):
        yield (
            f"warning: the first stage freezes {', '.join(parts)} at random weights; "
            "start from a trained detector: --weights RUN"
        )


# ------------------------------------------------------------------------------------------------ loading
def load_weights(detector: Detector, source: str | Path, parts: Sequence[type] = ()) -> LoadReport:
    """Loads another detector's weights as far as names, shapes and classes agree, and reports which.

    A classification network's file is loaded into the backbone. A head for other classes keeps its random weights.
    Raises :class:`FovealError` where nothing fits.
    """
    from .foreign.darknet import cfg_of, read_start_state

    cfg = cfg_of(detector.spec) if is_darknet(source) else None
    if cfg is not None:
        unnamed, initial = read_start_state(source, cfg)
        classes, note = darknet_names(source, unnamed, len(detector.classes))
        report = _noted(transfer(detector, initial, source, classes), note)
        return _noted(report, _other_pixels(detector.spec, UNIT_PIXELS, str(source)))
    if is_darknet(source):
        raise FovealError(
            f"are Darknet's weights, which fit its own networks and no {type(detector.spec).__name__}",
            path=source,
            fix=f"Train their cfg: foveal train FILE.cfg --weights {source}",
        )
    if Path(source).is_file():
        return _load_file(detector, source, parts)
    if _names_classifier(source):
        return _into_backbone(detector, source)
    return _load_model(detector, find(source, parts=parts), source)


def darknet_names(source: str | Path, classes: Sequence[str], ours: int) -> tuple[Sequence[str], str | None]:
    """The class names of a Darknet weights file, which has none itself, and a note on where they are from.

    They are looked for only where the detector has another number of classes: those of the one names file beside it
    that has as many, else COCO's for 80; else ``classes``, which are placeholders.
    """
    if len(classes) == ours:
        return classes, None
    beside = set[tuple[str, ...]]()
    for file in Path(source).parent.glob("*.names"):
        with suppress(FovealError):
            beside.add(read_names(file))
    beside = {names for names in beside if len(names) == len(classes)}
    if len(beside) == 1:
        return beside.pop(), "the classes of the weights are those of the names file beside them"
    if len(classes) == len(COCO_80):
        return COCO_80, "the weights do not name their 80 classes, which are taken for COCO's"
    return classes, None


def _load_file(detector: Detector, source: str | Path, parts: Sequence[type]) -> LoadReport:
    """Loads a file: the detector's own names, another detector, or the backbone's network, whichever it holds."""
    with record_notes() as notes:
        file = read_weights(source)
        own = _own_state(detector, file)
    if own is not None:
        unnamed = [f"class {i + 1}" for i in range(len(detector.classes))]
        report = transfer(detector, own.state, source, unnamed)
        return replace(report, notes=(*notes, *report.notes))
    if _is_detector(file):
        return _load_model(detector, find(source, file=file, parts=parts), source)
    if not is_classifier(usual(file).state) and not _shares_names(detector, file):
        find(source, file=file, parts=parts)  # raises with what the file is instead
    return _into_backbone(detector, source)


def _own_state(detector: Detector, file: WeightsFile) -> Found | None:
    """The tensors of a file under the detector's own names, whatever their shapes; None: there are none."""
    if "foveal" in header(file.path):
        return None  # a file that names its spec and classes
    names = {name for name in detector.state_dict() if not name.endswith("num_batches_tracked")}
    return choose_state(file, lambda state: names <= state.keys(), type(detector.spec).__name__)


def _shares_names(detector: Detector, file: WeightsFile) -> bool:
    """Whether some tensor of a file has a name of the backbone, with any prefix."""
    names = {name.removeprefix("backbone.") for name in detector.state_dict() if name.startswith("backbone.")}
    names |= {name.removeprefix("network.") for name in names}
    keys = (key.split(".") for state in file.entries.values() for key in state)
    return any(".".join(parts[i:]) in names for parts in keys for i in range(min(len(parts), 5)))


def _is_detector(file: WeightsFile) -> bool:
    from .foreign.recognize import find_foreign

    return "foveal" in header(file.path) or find_foreign(file) is not None


def _load_model(detector: Detector, model: ResolvedModel, source: str | Path) -> LoadReport:
    """Loads a resolved model. Raises :class:`FovealError` where another tool's weights need other settings."""
    try:
        theirs = model.spec().with_pixels()
    except FovealError:  # of parts that are not known here: the weights are usable nevertheless
        detector.trained_on = model.trained_on
        return transfer(detector, model.state, source, model.classes)
    changed = function_settings(detector.spec.with_pixels(), theirs)
    texts = (f"{path}={value if isinstance(value, str) else show(value, 10**6)}" for path, _, value in changed)
    settings = " ".join(map(shlex.quote, texts))
    if changed and model.tool:
        raise FovealError(
            f"the weights are {model.tool}'s and need other settings than this {type(detector.spec).__name__} has",
            path=source,
            fix=f"Set {settings}, or start from its own detector: foveal train {source} --data DATA",
        )
    report = transfer(detector, model.state, source, model.classes)
    detector.trained_on = model.trained_on
    report = replace(report, notes=(*model.notes, *report.notes))
    return _noted(report, _other_pixels(detector.spec, theirs.input.pixels, str(source)))


def load_backbone(spec: Spec, detector: Detector) -> LoadReport | None:
    """Loads the weights file that the spec itself names, if any, and reports which tensors it was for."""
    if (file := spec.weights_file) is None:
        spec.load_pretrained(detector)
        return None
    return pretrained(detector, lambda: spec.load_pretrained(detector), file)


def _names_classifier(source: str | Path) -> bool:
    """Whether it is the name of a published classification network, or ``imagenet``."""
    if str(source) == IMAGENET:
        return True
    return not Path(source).exists() and is_published(str(source)) and not is_alias(str(source))


def _into_backbone(detector: Detector, source: str | Path) -> LoadReport:
    spec: Any = detector.spec
    if spec.backbone is None:
        name = type(spec).__name__
        raise FovealError(f"is a classification network's, and {name} has no backbone that reads one", path=source)
    try:
        named: Spec = replace(spec, backbone=spec.backbone.with_weights(str(source)))
    except UsageError as error:
        where = error.where or "backbone.weights"
        raise UsageError(error.message, path=source, where=where, fix=error.fix) from None
    report = pretrained(detector, lambda: named.load_pretrained(detector), source)
    return _noted(report, normalization_mismatch(named))


def _noted(report: LoadReport, line: str | None) -> LoadReport:
    return report if line is None else replace(report, notes=(*report.notes, line))


# ------------------------------------------------------------------------------------------------- pixels
def initial_pixels(
    spec: Spec, weights: str | Path | None, resumed: Content | None = None, parts: Sequence[type] = ()
) -> PixelStatistics | None:
    """(mean, std) of the pixels that the initial weights of a run were trained on; None: no weights, or not known.

    ``weights`` as in :func:`begin`. A ``resumed`` run keeps its own. Not looked up where the spec has numbers already.
    """
    if None not in (spec.input.mean, spec.input.std):
        return None
    if resumed is not None:
        from ..config.parse import parse_spec, stored_modules

        own = (*parts, type(spec))  # the class of a spec that was given as a value
        stored: Spec = parse_spec(resumed.spec["spec"], parts=own, modules=stored_modules(resumed.spec))
        return stored.input.pixels
    if weights is None:
        return spec.pixels
    with suppress(FovealError):  # told once they are loaded
        if Path(weights).is_file() and not is_darknet(weights):
            file = read_weights(weights)
            if _is_detector(file):
                return find(weights, file=file, parts=parts).spec().with_pixels().input.pixels
            return None if spec.backbone is None else spec.backbone.with_weights(str(weights)).pixels
        if _names_classifier(weights):
            return None if spec.backbone is None else spec.backbone.with_weights(str(weights)).pixels
        if not is_darknet(weights):
            return find(weights, parts=parts).spec().with_pixels().input.pixels
    return None if spec.backbone is None else spec.backbone.pixels


# ----------------------------------------------------------------------------------------------- warnings
def frozen_random_backbone(spec: Spec, detector: Detector) -> bool:
    """Whether the backbone starts from random weights, and frozen layers would keep them."""
    if spec.weights_file is not None or (spec.backbone is not None and spec.backbone.weights is not None):
        return False
    frozen = (not p.requires_grad for name, p in detector.named_parameters() if name.startswith("backbone."))
    return any(frozen) or any(isinstance(module, FrozenBatchNorm) for module in detector.modules())


def normalization_mismatch(spec: Spec) -> str | None:
    """A warning where the weights that the spec names were trained on pixels normalized otherwise; None: they agree."""
    if spec.pixels is None:
        return None
    kind = type(spec if spec.backbone is None else spec.backbone).__name__
    return _other_pixels(spec.with_pixels(), spec.pixels, kind)


def _other_pixels(spec: Spec, pixels: PixelStatistics, what: str) -> str | None:
    """The warning where ``spec`` normalizes to other pixels than those that the weights of ``what`` expect."""
    ours, theirs = ([value for rgb in each for value in rgb] for each in (spec.input.pixels, pixels))
    if all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(ours, theirs, strict=True)):
        return None  # torchvision writes Caffe's mean with five digits
    settings = f"input.mean={pixels[0]} input.std={pixels[1]}".replace(", ", ",")
    return f"warning: the weights of {what} were trained on pixels with another mean and std; set {settings}"


def frozen_random_parts(spec: Spec, detector: Detector) -> list[str]:
    """The parts that start from random weights and are frozen in the first stage, which needs a trained detector.

    R-CNN's box layer is none of them: it starts with zeros, and leaves boxes as proposed unless a stage fits it.
    """
    first, backbone = spec.fit.stages[0], spec.backbone
    loaded = ("backbone.",) if backbone is not None and backbone.weights is not None else ()
    # solved by a later stage, or of the task that has no loss in this one
    later = (stage for stage in spec.fit.stages if isinstance(stage, Solve) or first.learning)
    expected = (*first.trains, *loaded, *spec.zero_initialized, *(path for stage in later for path in stage.trains))
    random = (
        name
        for name, parameter in detector.named_parameters()
        if parameter.requires_grad and not name.startswith(expected)
    )
    return sorted({".".join(name.split(".")[: 1 + name.startswith("neck.")]) for name in random})


def diluted_box_loss(spec: Spec) -> list[str]:
    """The tasks over anchors whose box loss is divided by all of them, because none is sampled away."""
    return [name for name, task in spec.tasks.items() if name != "roi" and task.dilutes_boxes]
