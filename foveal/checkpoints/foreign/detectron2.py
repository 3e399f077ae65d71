"""Imports Detectron2's ResNet-FPN detectors: the spec that computes the same function, by their config if there is one.

A Detectron2 file holds weights alone. Its settings are in the ``config.yaml`` that its training writes into the same
folder; without that they are those of the published models (``COCO-Detection``, ``COCO-InstanceSegmentation``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...assembly.detector import Spec
from ...assembly.proposers import Counts
from ...detectors.faster_rcnn import FasterRCNN
from ...detectors.mask_rcnn import MaskRCNN
from ...detectors.retinanet import RetinaNet
from ...errors import FovealError
from ...files.reading import Unreadable, read_yaml
from ...parts.coders import Delta
from ...parts.pooling.roi_align import RoIAlign
from ...parts.postprocess import NMS
from ...parts.priors.anchors import Anchors, at_strides
from ...presets.recipes import ONE, ONE_REGION
from ...weights.fpn.detectron2 import Detectron2State, detectron2_to_ours
from ...weights.fpn.layers import FPNLayout
from ...weights.open import StateDict
from ...weights.reading.entries import note
from .fpn import LEVEL_STRIDES, class_names, columns_of, fpn_spec, in_rgb, network_of, no_preset, pixel_statistics
from .settings import Settings

_MEAN = (103.53, 116.28, 123.675)  # BGR
_ONES = (1.0, 1.0, 1.0)
_STD = (57.375, 57.12, 58.395)  # BGR: of its ResNeXt
CONFIG_NAME = "config.yaml"


def import_detectron2(
    state: Mapping[str, Tensor], path: str | Path, preset: str | None = None, *, names: Sequence[str] | None = None
) -> tuple[Spec, tuple[str, ...], StateDict]:
    """Spec, class names and state. Raises ``FovealError`` for other layers and settings, and names the one."""
    no_preset(preset, "Detectron2")
    path = Path(path)
    try:
        found = detectron2_to_ours(state)
        network = network_of(found.layout, found.state)
    except FovealError as error:
        raise type(error)(error.message, path=path, where=error.where, fix=error.fix) from error
    config = _config(path)
    spec, bgr = _detector(found, network, config)
    _check_anchors(spec, found, path)
    if config.values:
        note(f"the settings are those of {config.path}")
    else:
        backbone: Any = spec.backbone
        note(
            "Detectron2 stores no settings with its weights: they are taken to be those of its published models "
            f"(the first convolution of a stage {'1 x 1' if backbone.stride_in_1x1 else '3 x 3'} is strided, "
            f"input.mean={spec.input.mean}, input.std={spec.input.std}, RoIAlign with aligned=True); "
            f"put its {CONFIG_NAME} beside the file where yours differ"
        )
    classes = class_names(columns_of(found.layout, found.state), names, None, path)
    return spec, classes, in_rgb(found.state, bgr=bgr)


def _config(path: Path) -> Settings:
    """The settings beside the file; empty where there is no config of Detectron2."""
    beside = path.parent / CONFIG_NAME
    if not beside.is_file():
        return Settings({}, path)
    try:
        values = read_yaml(beside)
    except Unreadable:
        return Settings({}, path)
    is_theirs = isinstance(values, Mapping) and isinstance(values.get("MODEL"), Mapping)
    return Settings(values if is_theirs and "META_ARCHITECTURE" in values["MODEL"] else {}, beside)


def _detector(found: Detectron2State, network: str, config: Settings) -> tuple[FasterRCNN | RetinaNet, bool]:
    """The spec, and whether the network was trained on BGR."""
    plain = fpn_spec(found.layout, network, found.state)
    config.only("MODEL.META_ARCHITECTURE", "RetinaNet" if found.layout.kind == "retinanet" else "GeneralizedRCNN")
    config.only("MODEL.FPN.FUSE_TYPE", "sum")
    config.only("MODEL.RESNETS.RES5_DILATION", 1)
    is_next = network.startswith("resnext")
    mean = config.numbers("MODEL.PIXEL_MEAN", found.mean or _MEAN)
    std = config.numbers("MODEL.PIXEL_STD", found.std or (_STD if is_next else _ONES), positive=True)
    ascends = mean[0] <= mean[-1]  # as ImageNet's mean in BGR
    bgr = config.only("INPUT.FORMAT", *(("BGR", "RGB") if ascends else ("RGB", "BGR"))) == "BGR"
    rgb_mean, rgb_std = pixel_statistics(mean, std, bgr=bgr)
    is_msra = max(std) < 2  # the std is in the weights of the first layer: a network of MSRA
    backbone = replace(
        plain.backbone,  # type: ignore[type-var]
        stride_in_1x1=config.flag("MODEL.RESNETS.STRIDE_IN_1X1", is_msra),
        frozen_stages=config.whole("MODEL.BACKBONE.FREEZE_AT", 2),
    )
    rule: Any = plain.input
    rule = replace(
        rule,
        short=config.whole("INPUT.MIN_SIZE_TEST", 800),
        long=config.whole("INPUT.MAX_SIZE_TEST", 1333),
        mean=rgb_mean,
        std=rgb_std,
    )
    both = {"input": rule, "backbone": backbone}
    if isinstance(plain, RetinaNet):
        return _retinanet(replace(plain, **both), config), bgr
    return _regions(replace(plain, **both), config), bgr


def _retinanet(spec: RetinaNet, config: Settings) -> RetinaNet:
    config.only("MODEL.RETINANET.IN_FEATURES", ["p3", "p4", "p5", "p6", "p7"])
    top = config.whole("TEST.DETECTIONS_PER_IMAGE", 100)
    task = replace(
        spec.task,
        coder=_coder(config, "MODEL.RETINANET.BBOX_REG_WEIGHTS", (*_ONES, 1.0)),
        select=replace(
            spec.task.select,
            score=config.number("MODEL.RETINANET.SCORE_THRESH_TEST", 0.05),
            per_level=config.whole("MODEL.RETINANET.TOPK_CANDIDATES_TEST", 1000),
        ),
        suppress=NMS(config.number("MODEL.RETINANET.NMS_THRESH_TEST", 0.5), per="class", top=top),
        clip="after",  # its boxes are suppressed as predicted, and clipped at the end
    )
    return replace(spec, anchors=_anchors(config, spec.anchors, "retinanet"), task=task, fit=ONE)


def _regions(spec: FasterRCNN, config: Settings) -> FasterRCNN:
    config.only("MODEL.PROPOSAL_GENERATOR.NAME", "RPN")
    config.only("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    config.only("MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"])
    config.only("MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"])
    config.only("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 0)
    counts = {
        phase: Counts(
            config.whole(f"MODEL.RPN.PRE_NMS_TOPK_{phase}", before),
            config.whole(f"MODEL.RPN.POST_NMS_TOPK_{phase}", 1000),
        )
        for phase, before in (("TRAIN", 2000), ("TEST", 1000))
    }
    nms = config.number("MODEL.RPN.NMS_THRESH", 0.7)
    rpn_coder = _coder(config, "MODEL.RPN.BBOX_REG_WEIGHTS", (*_ONES, 1.0))
    rpn = replace(spec.rpn, coder=rpn_coder, suppress=NMS(nms, per="level", top=1000))
    roi = replace(
        spec.roi,
        coder=_coder(config, "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0)),
        select=replace(spec.roi.select, score=config.number("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.05)),
        suppress=NMS(
            config.number("MODEL.ROI_HEADS.NMS_THRESH_TEST", 0.5),
            per="class",
            top=config.whole("TEST.DETECTIONS_PER_IMAGE", 100),
        ),
    )
    if isinstance(spec, MaskRCNN):
        spec = replace(spec, mask=replace(spec.mask, pool=_pool(config, "MODEL.ROI_MASK_HEAD", 14)))
    return replace(
        spec,
        anchors=_anchors(config, spec.anchors, "faster_rcnn"),
        rpn=rpn,
        pool=_pool(config, "MODEL.ROI_BOX_HEAD", 7),
        roi=roi,
        train_proposals=counts["TRAIN"],
        test_proposals=counts["TEST"],
        fit=ONE_REGION,
    )


def _pool(config: Settings, head: str, size: int) -> RoIAlign:
    kind = config.only(f"{head}.POOLER_TYPE", "ROIAlignV2", "ROIAlign")
    return RoIAlign(
        config.whole(f"{head}.POOLER_RESOLUTION", size, largest=64),
        ratio=config.whole(f"{head}.POOLER_SAMPLING_RATIO", 0, largest=64),
        aligned=kind == "ROIAlignV2",
    )


def _coder(config: Settings, name: str, default: tuple[float, ...]) -> Delta:
    x, y, w, h = config.numbers(name, default, positive=True)
    return Delta(weights=(x, y, w, h))


def _anchors(config: Settings, default: Any, kind: str) -> Any:
    """The anchors of the config; ``default`` where it has none."""
    config.only("MODEL.ANCHOR_GENERATOR.NAME", "DefaultAnchorGenerator")
    if config.get("MODEL.ANCHOR_GENERATOR.SIZES") is None:
        return default
    sizes, strides = config.lists("MODEL.ANCHOR_GENERATOR.SIZES", [[]]), LEVEL_STRIDES[kind]
    levels = sizes * len(strides) if len(sizes) == 1 else sizes
    ratios = config.lists("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.5, 1.0, 2.0]])
    if len(levels) != len(strides) or any(one != ratios[0] for one in ratios):
        raise FovealError(
            f"MODEL.ANCHOR_GENERATOR has sizes for {len(levels)} levels and {len(ratios)} sets of ratios, expected "
            f"{len(strides)} levels and equal ratios",
            path=config.path,
        )
    offset = config.number("MODEL.ANCHOR_GENERATOR.OFFSET", 0.0)
    found = Anchors(
        tuple(levels),
        ratios[0],
        order="size-major",
        center=offset,
    )
    same = at_strides(default, strides)
    cells = zip(strides, range(len(strides)), strict=True)
    is_same = offset == same.center and all(
        found.per_location == same.per_location and torch.allclose(found.cell(i, s), same.cell(i, s), atol=1e-2)
        for s, i in cells
    )
    return default if is_same else found


def _check_anchors(spec: FasterRCNN | RetinaNet, found: Detectron2State, path: Path) -> None:
    """Raises ``FovealError`` where the file stores anchors that are not those of the spec."""
    layout: FPNLayout = found.layout
    strides = LEVEL_STRIDES[layout.kind]
    anchors = at_strides(spec.anchors, strides)
    for level, theirs in found.cells.items():
        ours = anchors.cell(level, strides[level]) if level < len(strides) else torch.zeros(0, 4)
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs.float(), atol=0.02, rtol=1e-3):
            first = tuple(round(v, 2) for v in theirs.flatten()[:4].tolist())
            raise FovealError(
                f"has other anchors at level {level} (the first is {first}) than the settings say",
                path=path,
                fix=f"Put the {CONFIG_NAME} of its training beside the file",
            )
