"""The table of parts that the text of a spec or override may name, and custom parts beside them.

Only the modules of the names in a text are imported, and torch with them.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable, Iterator, Mapping

from ..errors import UsageError
from .fields import is_part, settings

_ROOT = __name__.split(".")[0]

PARTS: Mapping[str, str] = {  # name -> its module in this package
    "Counts": "assembly.proposers",
    "BoxTask": "assembly.task",
    "CopyPaste": "data.augment.combine",
    "MixUp": "data.augment.combine",
    "Mosaic": "data.augment.combine",
    "Expand": "data.augment.transforms",
    "FixedCrop": "data.augment.transforms",
    "FlipScaleColor": "data.augment.transforms",
    "HorizontalFlip": "data.augment.transforms",
    "IoUCrop": "data.augment.transforms",
    "Jitter": "data.augment.transforms",
    "MultiScale": "data.augment.transforms",
    "PhotometricDistortion": "data.augment.transforms",
    "ResizedCrop": "data.augment.transforms",
    "ScaleJitter": "data.augment.transforms",
    "ShortSide": "data.augment.transforms",
    "DarknetDetector": "detectors.darknet",
    "DETR": "detectors.detr",
    "FastRCNN": "detectors.fast_rcnn",
    "FasterRCNN": "detectors.faster_rcnn",
    "FCOS": "detectors.fcos",
    "MaskRCNN": "detectors.mask_rcnn",
    "RCNN": "detectors.rcnn",
    "RetinaNet": "detectors.retinanet",
    "RPN": "detectors.rpn",
    "SPPNet": "detectors.spp_net",
    "SSD": "detectors.ssd",
    "YOLO": "detectors.yolo",
    "CaffeNet": "parts.backbones.caffe",
    "ZF5": "parts.backbones.caffe",
    "Darknet": "parts.backbones.darknet",
    "ImagePyramid": "parts.backbones.image_pyramid",
    "SmallResNet": "parts.backbones.small",
    "Timm": "parts.backbones.timm",
    "Torchvision": "parts.backbones.torchvision",
    "Delta": "parts.coders",
    "GridCoder": "parts.coders",
    "ImageRelative": "parts.coders",
    "LTRB": "parts.coders",
    "DistanceNMS": "parts.distance_nms",
    "PointTower": "parts.heads.dense",
    "RPNHead": "parts.heads.dense",
    "Tower": "parts.heads.dense",
    "MaskHead": "parts.heads.mask",
    "RCNNHead": "parts.heads.rcnn",
    "Predictor": "parts.heads.roi",
    "ResNetTail": "parts.heads.roi",
    "RoIConv": "parts.heads.roi",
    "RoIMLP": "parts.heads.roi",
    "VGGTail": "parts.heads.roi",
    "PerLevel": "parts.heads.ssd",
    "PredictionModule": "parts.heads.ssd",
    "TimmTail": "parts.heads.timm",
    "Transformer": "parts.heads.transformer",
    "CellHead": "parts.heads.yolo",
    "GridHead": "parts.heads.yolo_v1",
    "CIoU": "parts.losses.box",
    "DIoU": "parts.losses.box",
    "GIoU": "parts.losses.box",
    "IoU": "parts.losses.box",
    "L1": "parts.losses.box",
    "SmoothL1": "parts.losses.box",
    "Sum": "parts.losses.box",
    "Centerness": "parts.losses.centerness",
    "BalancedCrossEntropy": "parts.losses.classification",
    "BinaryCrossEntropy": "parts.losses.classification",
    "CrossEntropy": "parts.losses.classification",
    "Focal": "parts.losses.classification",
    "FocalStar": "parts.losses.classification",
    "SquaredError": "parts.losses.classification",
    "DarknetIoU": "parts.losses.darknet_iou",
    "GaussianObjectness": "parts.losses.gaussian",
    "Fixed": "parts.losses.normalizers",
    "PerImage": "parts.losses.normalizers",
    "Positives": "parts.losses.normalizers",
    "PositivesPerImage": "parts.losses.normalizers",
    "Sampled": "parts.losses.normalizers",
    "Objectness": "parts.losses.objectness",
    "SoftmaxOrSVM": "parts.losses.svm",
    "YOLOBoxLoss": "parts.losses.yolo",
    "BipartiteThenIoU": "parts.matching.bipartite",
    "Responsible": "parts.matching.cells",
    "ShapeMatcher": "parts.matching.cells",
    "Hungarian": "parts.matching.hungarian",
    "IoUMatcher": "parts.matching.iou",
    "PointMatcher": "parts.matching.points",
    "Deconvolution": "parts.necks.dssd",
    "FPN": "parts.necks.fpn",
    "Identity": "parts.necks.fpn",
    "SingleLevel": "parts.necks.fpn",
    "Extra": "parts.necks.ssd",
    "Extras": "parts.necks.ssd",
    "L2Norm": "parts.necks.ssd",
    "ReducedFC": "parts.necks.ssd",
    "Passthrough": "parts.necks.yolo",
    "Upsampling": "parts.necks.yolo",
    "CropResize": "parts.pooling.roi_align",
    "RoIAlign": "parts.pooling.roi_align",
    "RoIPool": "parts.pooling.roi_align",
    "SPP": "parts.pooling.spp",
    "Warp": "parts.pooling.warp",
    "NMS": "parts.postprocess",
    "NoNMS": "parts.postprocess",
    "Select": "parts.postprocess",
    "Anchors": "parts.priors.anchors",
    "PyramidAnchors": "parts.priors.anchors",
    "Cells": "parts.priors.cells",
    "DefaultBoxes": "parts.priors.default_boxes",
    "PyramidBoxes": "parts.priors.default_boxes",
    "WholeImage": "parts.priors.whole_image",
    "Letterbox": "parts.resizing",
    "Original": "parts.resizing",
    "Resize": "parts.resizing",
    "Stretch": "parts.resizing",
    "All": "parts.samplers",
    "Balanced": "parts.samplers",
    "HardNegatives": "parts.samplers",
    "OHEM": "parts.samplers",
    "SelectiveSearch": "parts.selective_search",
    "SlidingWindows": "parts.selective_search",
    "Constant": "recipe",
    "Cosine": "recipe",
    "FrozenMaps": "recipe",
    "OnImages": "recipe",
    "OnProposals": "recipe",
    "OnStoredMaps": "recipe",
    "OnWindows": "recipe",
    "Recipe": "recipe",
    "Solve": "recipe",
    "Steps": "recipe",
    "WindowSampling": "recipe",
    "AdamW": "recipe.solvers",
    "Ridge": "recipe.solvers",
    "SGD": "recipe.solvers",
    "SVM": "recipe.solvers",
}


class Vocabulary(Mapping[str, type]):
    """The classes by name, each imported on first use.

    ``parts`` are custom parts beside the package's; ``modules``: the modules of those that a run was trained with
    (name -> module), for messages only. Raises :class:`UsageError` for a class that is not a part, and for two parts
    of one name.
    """

    def __init__(self, parts: Iterable[type] = (), modules: Mapping[str, str] | None = None) -> None:
        self._custom: dict[str, type] = {}
        self._modules = modules or {}
        for cls in parts:
            name = getattr(cls, "__name__", repr(cls))
            if not is_part(cls):
                raise UsageError(
                    f"{name} is not a part", where="parts", fix="Make it a frozen dataclass without abstract methods"
                )
            known = self._custom.get(name) or (_imported(name) if name in PARTS else cls)
            if known is not cls:
                raise UsageError(f"two parts are named {name}", where="parts", fix=f"Rename {cls.__module__}.{name}")
            self._custom[name] = cls

    def __getitem__(self, name: str) -> type:
        return self._custom[name] if name in self._custom else _imported(name)

    def __contains__(self, name: object) -> bool:
        return name in self._custom or name in PARTS

    def __iter__(self) -> Iterator[str]:
        return iter({**PARTS, **self._custom})

    def __len__(self) -> int:
        return len({**PARTS, **self._custom})

    def missing(self, name: str) -> str:
        """The fix for an unknown name, which may be that of a custom part."""
        module = self._modules.get(name, "MODULE")
        return f"Pass parts=[{name}], or --parts {module} on the command line, if it is a custom part"


def _imported(name: str) -> type:
    part: type = getattr(importlib.import_module(f"{_ROOT}.{PARTS[name]}"), name)
    return part


def custom_parts(value: object) -> dict[str, str]:
    """The custom parts inside a spec, those that are not the package's: name -> module."""
    modules: dict[str, str] = {}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name, module = type(value).__name__, type(value).__module__
        if f"{_ROOT}.{PARTS.get(name)}" != module:
            modules[name] = module
        value = tuple(getattr(value, field) for field in settings(type(value)))
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            modules |= custom_parts(item)
    return modules
