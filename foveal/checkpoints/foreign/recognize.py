"""Finds the detector of another tool in a weights file, whatever it is wrapped in, and imports it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from ...assembly.detector import Spec
from ...weights.fpn.detectron2 import is_detectron2
from ...weights.fpn.mmdetection import is_mmdetection
from ...weights.keys_detr import is_detr
from ...weights.keys_torchvision import is_torchvision
from ...weights.open import StateDict
from ...weights.reading.entries import Found, WeightsFile, choose_state, usual
from .detectron2 import import_detectron2
from .detr import import_detr
from .mmdetection import import_mmdetection
from .torchvision import import_weights

_TOOLS: Sequence[Callable[[Mapping[str, Tensor]], bool]] = (is_detr, is_detectron2, is_mmdetection, is_torchvision)


def find_foreign(file: WeightsFile) -> Found | None:
    """The state of a detector of another tool in a file; None: it has none."""
    return choose_state(file, lambda state: any(recognizes(state) for recognizes in _TOOLS), "a detector")


def import_foreign(
    file: WeightsFile, preset: str | None = None, *, names: Sequence[str] | None = None
) -> tuple[str, Spec, tuple[str, ...], StateDict]:
    """Tool, spec, class names and state of the detector in a file. The tool is empty where presets have its settings.

    Raises :class:`FovealError` for a file without a detector, and whatever the tool's import raises.
    """
    found = find_foreign(file) or usual(file)
    if is_detr(found.state):
        return "", *import_detr(found.state, file.path, preset, names=names)
    if is_detectron2(found.state):
        return "Detectron2", *import_detectron2(found.state, file.path, preset, names=names)
    if is_mmdetection(found.state):
        meta = file.plain.get("meta")
        return "MMDetection", *import_mmdetection(found.state, file.path, preset, names=names, meta=meta)
    return "", *import_weights(file.path, preset, names=names, state=found.state)
