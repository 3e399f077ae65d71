"""Imports MMDetection's ResNet-FPN detectors: the spec that computes the same function, by the config in the file.

A checkpoint of MMDetection 2 or 3 holds the text of its config and the names of its classes (``meta``). Without them
the settings are those of the published models: torchvision's ResNet and pixels, or Caffe's where the name of the file
says so (``caffe``). Two things are computed otherwise here: MMDetection limits the shrinking of a box to 1000 / 16 too,
not only its growth, and resizes with OpenCV.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ...assembly.detector import Spec
from ...assembly.proposers import Counts
from ...detectors.faster_rcnn import FasterRCNN
from ...detectors.mask_rcnn import MaskRCNN
from ...detectors.retinanet import RetinaNet
from ...errors import FovealError
from ...parts.coders import Delta
from ...parts.matching.iou import IoUMatcher
from ...parts.pooling.roi_align import RoIAlign
from ...parts.postprocess import NMS
from ...parts.priors.anchors import Anchors, PyramidAnchors
from ...presets.recipes import ONE, ONE_REGION
from ...weights.fpn.layers import FPNKind
from ...weights.fpn.mmdetection import mmdetection_to_ours
from ...weights.open import StateDict
from ...weights.reading.entries import note
from .fpn import LEVEL_STRIDES, class_names, columns_of, fpn_spec, in_rgb, network_of, no_preset, pixel_statistics
from .settings import Settings, python_settings

_PYTORCH = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # RGB
_CAFFE = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0))  # BGR
_TYPES = {"faster_rcnn": "FasterRCNN", "mask_rcnn": "MaskRCNN", "retinanet": "RetinaNet"}


def import_mmdetection(
    state: Mapping[str, Tensor],
    path: str | Path,
    preset: str | None = None,
    *,
    names: Sequence[str] | None = None,
    meta: Any = None,
) -> tuple[Spec, tuple[str, ...], StateDict]:
    """Spec, class names and state. ``meta``: the entry of the file that describes it.

    Raises ``FovealError`` for other layers and settings, and names the one.
    """
    no_preset(preset, "MMDetection")
    path = Path(path)
    try:
        layout, ours, averages = mmdetection_to_ours(state)
        network = network_of(layout, ours)
    except FovealError as error:
        raise type(error)(error.message, path=path, where=error.where, fix=error.fix) from error
    if averages:
        note(f"{len(averages)} tensors ema_... are not used: the file's own names hold the averaged weights")
    described: Mapping[str, Any] = meta if isinstance(meta, Mapping) else {}
    _check_version(described, path)
    text = next((described[key] for key in ("config", "cfg") if isinstance(described.get(key), str)), "")
    config = Settings(python_settings(text), path)
    is_known = isinstance(config.get("model"), Mapping)
    if not is_known:
        config = Settings({}, path)
    spec, bgr = _detector(fpn_spec(layout, network, ours), layout.kind, config, path)
    if not is_known:
        style = "Caffe's ResNet and pixels, by its name" if _is_caffe(path) else "torchvision's ResNet and pixels"
        note(f"the file has no config: its settings are taken to be those of the published models ({style})")
    classes = class_names(columns_of(layout, ours), names, _stored_names(described), path)
    return spec, classes, in_rgb(ours, bgr=bgr)


def _check_version(meta: Mapping[str, Any], path: Path) -> None:
    version = str(meta.get("mmdet_version", ""))
    if version.startswith(("0.", "1.")):
        raise FovealError(
            f"is of MMDetection {version}, whose anchors and boxes are a pixel larger",
            path=path,
            fix="Convert it with MMDetection's tools/model_converters/upgrade_model_version.py",
        )


def _stored_names(meta: Mapping[str, Any]) -> list[str] | None:
    """The class names in the file: ``CLASSES`` (2.x) or ``dataset_meta`` (3.x)."""
    inner = meta.get("dataset_meta")
    places = (inner, meta) if isinstance(inner, Mapping) else (meta,)
    found = next((place[key] for place in places for key in ("classes", "CLASSES") if place.get(key)), None)
    if isinstance(found, list | tuple) and all(isinstance(name, str) for name in found):
        return list(found)
    return [found] if isinstance(found, str) else None


def _is_caffe(path: Path) -> bool:
    return "caffe" in path.name.lower()


def _detector(
    plain: FasterRCNN | RetinaNet, kind: FPNKind, config: Settings, path: Path
) -> tuple[FasterRCNN | RetinaNet, bool]:
    """The spec, and whether the network was trained on BGR."""
    config.only("model.type", _TYPES[kind])
    config.only("model.backbone.type", "ResNet", "ResNeXt")
    config.only("model.backbone.strides", [1, 2, 2, 2])
    config.only("model.backbone.dilations", [1, 1, 1, 1])
    config.only("model.neck.type", "FPN")
    config.only("model.neck.upsample_cfg.mode", "nearest")
    styles = ("caffe", "pytorch") if _is_caffe(path) and not config.values else ("pytorch", "caffe")
    style = config.only("model.backbone.style", *styles)
    mean, std, is_bgr = _pixels(config, style)
    rgb_mean, rgb_std = pixel_statistics(mean, std, bgr=is_bgr)
    long, short = _scale(config)
    rule: Any = plain.input
    backbone: Any = plain.backbone
    both = {
        "input": replace(rule, short=short, long=long, multiple=_divisor(config), mean=rgb_mean, std=rgb_std),
        "backbone": replace(
            backbone,
            stride_in_1x1=style == "caffe",
            frozen_stages=max(0, config.whole("model.backbone.frozen_stages", 1)) + 1,
        ),
    }
    spec = replace(plain, **both)
    return (_retinanet(spec, config) if isinstance(spec, RetinaNet) else _regions(spec, config)), is_bgr


def _pixels(config: Settings, style: str) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Mean and std of the pixels, 0 to 255, and whether the network sees BGR."""
    mean, std = _CAFFE if style == "caffe" else _PYTORCH
    prepared = "model.data_preprocessor"
    if config.get(prepared) is not None:  # since 3.0
        rgb = config.flag(f"{prepared}.bgr_to_rgb", False)
        return config.numbers(f"{prepared}.mean", mean), config.numbers(f"{prepared}.std", std), not rgb
    step = _step(config, "Normalize")
    if step is None:
        return mean, std, style == "caffe"
    found = Settings(step, config.path)
    return found.numbers("mean", mean), found.numbers("std", std), not found.flag("to_rgb", True)


def _divisor(config: Settings) -> int:
    """What the sides of a batch are multiples of."""
    if not config.values:
        return 32
    if config.get("model.data_preprocessor") is not None:
        return max(1, config.whole("model.data_preprocessor.pad_size_divisor", 1))
    return max(1, Settings(_step(config, "Pad") or {}, config.path).whole("size_divisor", 32))


def _scale(config: Settings) -> tuple[int, int]:
    """(long, short) sides that images are resized to."""
    step = _step(config, "Resize") or {}
    multi = _step(config, "MultiScaleFlipAug") or {}
    scale = step.get("scale") or multi.get("img_scale") or (1333, 800)
    if isinstance(scale, list | tuple) and len(scale) == 1:
        scale = scale[0]
    is_pair = isinstance(scale, list | tuple) and len(scale) == 2 and all(isinstance(n, int) for n in scale)
    if not is_pair or step.get("keep_ratio") is False:
        raise FovealError(
            f"the model's Resize has scale {scale!r} and keep_ratio {step.get('keep_ratio', True)}, expected two "
            "sides and keep_ratio",
            path=config.path,
        )
    return max(scale), min(scale)


def _step(config: Settings, kind: str) -> Mapping[str, Any] | None:
    """The step of that type in the pipeline of testing, at any depth."""
    lists = ("test_dataloader.dataset.pipeline", "test_pipeline", "data.test.pipeline", "val_pipeline")
    steps = next((steps for name in lists if isinstance(steps := config.get(name), list)), [])
    waiting = [step for step in steps if isinstance(step, Mapping)]
    while waiting:
        step = waiting.pop(0)
        if step.get("type") == kind:
            return step
        inner = step.get("transforms")
        waiting += [one for one in inner if isinstance(one, Mapping)] if isinstance(inner, list) else []
    return None


def _retinanet(spec: RetinaNet, config: Settings) -> RetinaNet:
    config.only("model.bbox_head.type", "RetinaHead")
    config.only("model.neck.add_extra_convs", "on_input", True, "on_output")
    config.only("model.bbox_head.loss_cls.use_sigmoid", True)
    test = Settings(config.get("model.test_cfg") or config.get("test_cfg") or {}, config.path)
    task = replace(
        spec.task,
        coder=_coder(config, "model.bbox_head.bbox_coder", (1.0,) * 4),
        select=replace(
            spec.task.select,
            score=test.number("score_thr", 0.05),
            per_level=test.whole("nms_pre", 1000),
            min_size=_smallest(test, "min_bbox_size"),
        ),
        suppress=_nms(test, 0.5),
    )
    neck = replace(spec.neck, p7_relu=config.flag("model.neck.relu_before_extra_convs", False))
    anchors = _anchors(config, "model.bbox_head.anchor_generator", "retinanet", spec.anchors)
    return replace(spec, neck=neck, anchors=anchors, task=task, fit=ONE)


def _regions(spec: FasterRCNN, config: Settings) -> FasterRCNN:
    config.only("model.rpn_head.type", "RPNHead")
    config.only("model.roi_head.type", "StandardRoIHead")
    config.only("model.rpn_head.loss_cls.use_sigmoid", True)
    config.only("model.roi_head.bbox_head.loss_cls.type", "CrossEntropyLoss")
    config.only("model.roi_head.bbox_head.loss_cls.use_sigmoid", False)
    where = "model." if config.get("model.test_cfg") else ""
    rpn, roi = (Settings(config.get(f"{where}test_cfg.{part}") or {}, config.path) for part in ("rpn", "rcnn"))
    training = Settings(config.get(f"{where}train_cfg.rpn_proposal") or {}, config.path)
    counts = {
        phase: Counts(one.whole("nms_pre", before), one.whole("max_per_img", one.whole("max_num", 1000)))
        for phase, one, before in (("train", training, 2000), ("test", rpn, 1000))
    }
    first = replace(
        spec.rpn,
        matcher=IoUMatcher(0.7, 0.3, low_quality=True, low_quality_floor=0.3),
        coder=_coder(config, "model.rpn_head.bbox_coder", (1.0,) * 4),
        select=replace(spec.rpn.select, min_size=_smallest(rpn, "min_bbox_size")),
        suppress=NMS(_iou(rpn, 0.7), per="level", top=1000),
    )
    second = replace(
        spec.roi,
        coder=_coder(config, "model.roi_head.bbox_head.bbox_coder", (0.1, 0.1, 0.2, 0.2)),
        select=replace(spec.roi.select, score=roi.number("score_thr", 0.05)),
        suppress=_nms(roi, 0.5),
    )
    if isinstance(spec, MaskRCNN):
        mask = replace(
            spec.mask,
            pool=_pool(config, "model.roi_head.mask_roi_extractor", 14),
            threshold=roi.number("mask_thr_binary", 0.5),
        )
        spec = replace(spec, mask=mask)
    return replace(
        spec,
        anchors=_anchors(config, "model.rpn_head.anchor_generator", "faster_rcnn", spec.anchors),
        rpn=first,
        pool=_pool(config, "model.roi_head.bbox_roi_extractor", 7),
        roi=second,
        train_proposals=counts["train"],
        test_proposals=counts["test"],
        fit=ONE_REGION,
    )


def _smallest(test: Settings, name: str) -> float:
    return max(1e-6, test.number(name, 0.0))


def _iou(test: Settings, default: float) -> float:
    """The threshold of plain NMS."""
    test.only("nms.type", "nms")
    return test.number("nms.iou_threshold", test.number("nms.iou_thr", test.number("nms_thr", default)))


def _nms(test: Settings, iou: float) -> NMS:
    return NMS(_iou(test, iou), per="class", top=test.whole("max_per_img", 100))


def _pool(config: Settings, name: str, size: int) -> RoIAlign:
    config.only(f"{name}.type", "SingleRoIExtractor")
    config.only(f"{name}.finest_scale", 56)
    config.only(f"{name}.featmap_strides", [4, 8, 16, 32])
    config.only(f"{name}.roi_layer.type", "RoIAlign")
    return RoIAlign(
        config.whole(f"{name}.roi_layer.output_size", size, largest=64),
        ratio=config.whole(f"{name}.roi_layer.sampling_ratio", 0, largest=64),
        aligned=config.flag(f"{name}.roi_layer.aligned", True),
    )


def _coder(config: Settings, name: str, stds: tuple[float, ...]) -> Delta:
    config.only(f"{name}.type", "DeltaXYWHBBoxCoder")
    config.only(f"{name}.add_ctr_clamp", False)
    if any(config.numbers(f"{name}.target_means", (0.0,) * 4)):
        raise FovealError(f"{name}.target_means are not zero, which is not supported", path=config.path)
    x, y, w, h = (round(1 / std, 9) for std in config.numbers(f"{name}.target_stds", stds, positive=True))
    return Delta(weights=(x, y, w, h))


def _anchors(config: Settings, name: str, kind: str, default: Any) -> Any:
    """The anchors of the config; where it has none, the default in MMDetection's order: ratios change slowest."""
    config.only(f"{name}.type", "AnchorGenerator")
    config.only(f"{name}.scale_major", True)
    if config.get(f"{name}.base_sizes") is not None:
        raise FovealError(f"{name}.base_sizes is set, which is not supported", path=config.path)
    strides = config.numbers(f"{name}.strides", LEVEL_STRIDES[kind])
    if strides != tuple(map(float, LEVEL_STRIDES[kind])):
        raise FovealError(f"{name}.strides are {strides}, expected {LEVEL_STRIDES[kind]}", path=config.path)
    ratios = config.sizes(f"{name}.ratios", (0.5, 1.0, 2.0))
    center = config.number(f"{name}.center_offset", 0.0)
    octaves = config.whole(f"{name}.scales_per_octave", 3, largest=64)
    if kind == "retinanet" and config.get(f"{name}.scales") is None:
        scale = config.number(f"{name}.octave_base_scale", 4.0, positive=True)
        return PyramidAnchors(scale, octaves, ratios, order="ratio-major", center=center)
    scales = config.sizes(f"{name}.scales", (8.0,))
    sizes = tuple(tuple(scale * stride for scale in scales) for stride in strides)
    found = Anchors(sizes, ratios, order="ratio-major", center=center)
    return default if found == default else found
