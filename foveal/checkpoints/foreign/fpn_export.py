"""Writes a ResNet-FPN detector under the keys of Detectron2 or MMDetection, where they compute the same with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from ...assembly.detector import Spec
from ...detectors.faster_rcnn import FasterRCNN
from ...detectors.mask_rcnn import MaskRCNN
from ...detectors.retinanet import RetinaNet
from ...errors import FovealError, UsageError
from ...parts.backbones.torchvision import Torchvision
from ...weights.fpn.detectron2 import ours_to_detectron2
from ...weights.fpn.layers import FPNKind
from ...weights.fpn.mmdetection import ours_to_mmdetection
from ...weights.open import StateDict
from .detectron2 import import_detectron2
from .fpn import in_rgb
from .mmdetection import import_mmdetection
from .settings import function_settings

FPNTool = Literal["detectron2", "mmdetection"]
_NAMES = {"detectron2": "Detectron2", "mmdetection": "MMDetection"}
_KINDS: dict[type, FPNKind] = {FasterRCNN: "faster_rcnn", MaskRCNN: "mask_rcnn", RetinaNet: "retinanet"}


def export_fpn(spec: Spec, classes: Sequence[str], state: StateDict, tool: FPNTool) -> dict[str, Any]:
    """The content of a checkpoint of ``tool``. Raises ``UsageError`` for a detector that it would compute otherwise."""
    kind = _KINDS.get(type(spec))
    if kind is None:
        raise UsageError(f"{_NAMES[tool]} has no {type(spec).__name__}", where="--to", fix="Use --to foveal")
    bgr = _is_bgr(spec)
    theirs = in_rgb(state, bgr=bgr)
    try:
        if tool == "detectron2":
            mean, std = (_levels(values, bgr) for values in spec.input.pixels)
            buffers = {"pixel_mean": torch.tensor(mean), "pixel_std": torch.tensor(std)}
            content: dict[str, Any] = {"model": {**ours_to_detectron2(theirs, kind), **buffers}, "__author__": "foveal"}
            read = import_detectron2(content["model"], "")[0]
        else:
            meta = {
                "CLASSES": tuple(classes),
                "dataset_meta": {"classes": tuple(classes)},
                "config": _config(spec, kind),
            }
            content = {"meta": meta, "state_dict": ours_to_mmdetection(theirs, kind)}
            read = import_mmdetection(content["state_dict"], "", meta=meta)[0]
    except FovealError as error:
        raise UsageError(
            f"{type(spec).__name__} {error.message}", where="--to", fix=error.fix or "Use --to foveal"
        ) from error
    changed = [path for path, *_ in function_settings(spec, read)]
    if changed:
        raise UsageError(
            f"{_NAMES[tool]} would compute other detections with {', '.join(changed)}",
            where="--to",
            fix="Use --to foveal, or start from one of its files",
        )
    return content


def fpn_remarks(spec: Spec, classes: int, tool: FPNTool) -> list[str]:
    """What the config of the tool has to say, one line."""
    bgr = _is_bgr(spec)
    mean, std = (_levels(values, bgr) for values in spec.input.pixels)
    strided = _is_caffe_style(spec)
    if tool == "detectron2":
        settings = (
            f"INPUT.FORMAT={'BGR' if bgr else 'RGB'} MODEL.PIXEL_MEAN={mean} MODEL.PIXEL_STD={std} "
            f"MODEL.RESNETS.STRIDE_IN_1X1={strided} and {classes} classes"
        )
    else:
        style = "caffe" if strided else "pytorch"
        settings = f"style='{style}', mean={mean}, std={std}, bgr_to_rgb={not bgr} and num_classes={classes}"
    return [f"its config needs {settings}"]


def _is_bgr(spec: Spec) -> bool:
    """Whether both tools use the pixels of a network like this in BGR: those whose std is in the weights."""
    return max(spec.input.pixels[1]) < 2 / 255


def _is_caffe_style(spec: Spec) -> bool:
    """Whether the first 1 x 1 convolution of a stage is strided, as in MSRA's ResNet."""
    return isinstance(spec.backbone, Torchvision) and spec.backbone.stride_in_1x1


def _levels(values: Sequence[float], bgr: bool) -> list[float]:
    """Mean or std on the scale 0..255, in the tool's order of channels."""
    levels = [round(255 * value, 3) for value in values]
    return levels[::-1] if bgr else levels


def _config(spec: Spec, kind: FPNKind) -> str:
    """What a config of MMDetection says about pixels and strides."""
    bgr = _is_bgr(spec)
    mean, std = (_levels(values, bgr) for values in spec.input.pixels)
    style = "caffe" if _is_caffe_style(spec) else "pytorch"
    name = {"faster_rcnn": "FasterRCNN", "mask_rcnn": "MaskRCNN", "retinanet": "RetinaNet"}[kind]
    pixels = f"dict(type='DetDataPreprocessor', mean={mean}, std={std}, bgr_to_rgb={not bgr}, pad_size_divisor=32)"
    return f"model = dict(type='{name}', data_preprocessor={pixels}, backbone=dict(type='ResNet', style='{style}'))\n"
