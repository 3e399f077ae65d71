"""Converts torchvision's SSD300 and SSDLite checkpoints: keys, and the index of the background column.

Here VGG's conv5 belongs to the backbone, not to the extra layers, and a MobileNet's blocks have their own numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import FovealError
from .open import StateDict

_VGG, _LITE = "backbone.scale_weight", "head.classification_head.module_list.0.0.0.weight"
_SCALE, _FC6, _FC7 = "neck.rescale.weight", "neck.fc.fc6.", "neck.fc.fc7."
_CLASSES, _BOXES = "head.classification_head.", "head.regression_head."
_LEVEL = re.compile(r"^head\.classification_head\.(?:module_list\.)?(\d+)\.(?:1\.)?(weight|bias)$")
_CONV5 = 23  # the pooling before conv5_1 is VGG's layer 23, and the first of torchvision's extra layers
_SPLIT = 13  # the block of MobileNetV3-Large whose expansion is the first map


def recognize_ssd(state: Mapping[str, Tensor]) -> str | None:
    """The preset that the state of an SSD fits, None for anything else."""
    if _VGG in state:
        return "ssd300_vgg16"
    return "ssdlite320_mobilenet_v3_large" if _LITE in state and "backbone.extra.3.2.0.weight" in state else None


def check_ssd(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Raises ``FovealError`` where prediction layers of a level are missing or inconsistent."""
    last = "1." if _LITE in state else ""
    levels = {key[len(_CLASSES) :].split(".")[1] for key in state if key.startswith(_CLASSES + "module_list.")} or {"0"}
    columns = set()
    for level in sorted(levels):
        sizes = []
        for branch in (_CLASSES, _BOXES):
            weight, bias = (state.get(f"{branch}module_list.{level}.{last}{kind}") for kind in ("weight", "bias"))
            fits = weight is not None and bias is not None and weight.dim() == 4 and bias.shape == weight.shape[:1]
            sizes.append(len(bias) if fits and bias is not None else 0)
        logits, boxes = sizes
        priors = boxes // 4
        columns.add(logits // priors if priors and not boxes % 4 and not logits % priors else 0)
    if len(columns) > 1 or min(columns) < 2:
        raise FovealError(
            f"is an SSD whose prediction layers ({_CLASSES}module_list, {_BOXES}module_list) are inconsistent",
            path=path,
            fix="Download or copy it again",
        )


def ssd_to_ours(state: Mapping[str, Tensor]) -> StateDict:
    """A torchvision state under foveal's keys, the background column moved from the front to the back."""
    rename = _from_vgg if _VGG in state else _from_mobilenet
    new = {_from_head(rename(key)): value for key, value in state.items()}
    return _rolled(new, -1)


def ssd_to_torchvision(state: Mapping[str, Tensor]) -> StateDict:
    """The inverse of :func:`ssd_to_ours`."""
    rename = _to_vgg if _SCALE in state else _to_mobilenet
    return {_to_head(rename(key)): value for key, value in _rolled(state, 1).items()}


def ssd_columns(state: Mapping[str, Tensor]) -> int:
    """The number of softmax columns of a state under foveal's keys, background included."""
    suffix = "0.1.bias" if _CLASSES + "0.1.bias" in state else "0.bias"
    return int(state[_CLASSES + suffix].shape[0] // (state[_BOXES + suffix].shape[0] // 4))


def is_ssd(state: Mapping[str, Tensor]) -> bool:
    """Whether a state under foveal's keys has a head for each level."""
    return _CLASSES + "0.1.bias" in state or _CLASSES + "0.bias" in state


def _rolled(state: Mapping[str, Tensor], shift: int) -> StateDict:
    """The background column of each prior moved from the front to the back (-1) or the other way (1)."""
    columns, new = ssd_columns(state), dict(state)
    for key, value in state.items():
        if _LEVEL.match(key):
            new[key] = value.view(-1, columns, *value.shape[1:]).roll(shift, 1).flatten(0, 1)
    return new


def _from_head(key: str) -> str:
    return re.sub(r"^(head\.\w+\.)module_list\.", r"\1", key)


def _to_head(key: str) -> str:
    return re.sub(r"^(head\.\w+_head\.)", r"\1module_list.", key)


def _from_vgg(key: str) -> str:
    key = {_VGG: _SCALE}.get(key, key)
    key = re.sub(r"^backbone\.extra\.0\.7\.1\.", _FC6, key)
    key = re.sub(r"^backbone\.extra\.0\.7\.3\.", _FC7, key)
    key = re.sub(r"^backbone\.extra\.0\.(\d)\.", lambda m: f"backbone.features.{_CONV5 + int(m[1])}.", key)
    return _from_extra(key, 1)


def _to_vgg(key: str) -> str:
    key = {_SCALE: _VGG}.get(key, key)
    key = key.replace(_FC6, "backbone.extra.0.7.1.").replace(_FC7, "backbone.extra.0.7.3.")
    match = re.match(r"^backbone\.features\.(\d+)\.(.*)", key)
    if match and int(match[1]) > _CONV5:
        key = f"backbone.extra.0.{int(match[1]) - _CONV5}.{match[2]}"
    return _to_extra(key, 1)


def _from_mobilenet(key: str) -> str:
    """torchvision splits the list of blocks in two, within block 13."""
    if match := re.match(r"^backbone\.features\.0\.(\d+)\.(.*)", key):
        number = int(match[1])
        return f"backbone.features.{number}{'.block.0' if number == _SPLIT else ''}.{match[2]}"
    if match := re.match(r"^backbone\.features\.1\.0\.(\d+)\.(.*)", key):
        return f"backbone.features.{_SPLIT}.block.{match[1]}.{match[2]}"
    if match := re.match(r"^backbone\.features\.1\.(\d+)\.(.*)", key):
        return f"backbone.features.{_SPLIT + int(match[1])}.{match[2]}"
    return _from_extra(key, 0)


def _to_mobilenet(key: str) -> str:
    if match := re.match(rf"^backbone\.features\.{_SPLIT}\.block\.(\d+)\.(.*)", key):
        path = f"0.{_SPLIT}" if match[1] == "0" else f"1.0.{match[1]}"
        return f"backbone.features.{path}.{match[2]}"
    if match := re.match(r"^backbone\.features\.(\d+)\.(.*)", key):
        number = int(match[1])
        path = f"0.{number}" if number < _SPLIT else f"1.{number - _SPLIT}"
        return f"backbone.features.{path}.{match[2]}"
    return _to_extra(key, 0)


def _from_extra(key: str, first: int) -> str:
    return re.sub(r"^backbone\.extra\.(\d+)\.", lambda m: f"neck.extras.{int(m[1]) - first}.", key)


def _to_extra(key: str, first: int) -> str:
    return re.sub(r"^neck\.extras\.(\d+)\.", lambda m: f"backbone.extra.{int(m[1]) + first}.", key)
