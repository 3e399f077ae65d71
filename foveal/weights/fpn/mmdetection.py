"""Converts the keys of MMDetection's ResNet-FPN detectors, both ways: Faster R-CNN, Mask R-CNN and RetinaNet.

No value changes: since MMDetection 2.0 the background is the last class, as here, and has neither box nor mask. Before,
it was the first: files of 1.x have no ``roi_head`` and are refused. Source: the module tree of MMDetection 2 and 3
(``models/backbones/resnet.py``, ``necks/fpn.py``, ``dense_heads``, ``roi_heads``).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import FovealError
from ..open import StateDict
from .layers import FPNKind, FPNLayout, LayerPairs, blocks_of, convs_of, ours_renamed, renamed

_LATERAL = "neck.lateral_convs.0.conv.weight"
_RETINA, _ROI = "bbox_head.retina_cls.weight", "roi_head.bbox_head.fc_cls.weight"
_MASK = "roi_head.mask_head.conv_logits.weight"
_V1 = "bbox_head.fc_cls.weight"


def is_mmdetection(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of an MMDetection detector with an FPN and one of the supported heads."""
    return _LATERAL in state and any(key in state for key in (_RETINA, _ROI, _V1))


def mmdetection_to_ours(state: Mapping[str, Tensor]) -> tuple[FPNLayout, StateDict, list[str]]:
    """The layers, the state under foveal's keys, and the names that were left out (MMCV's averages).

    Raises ``FovealError`` for a detector with other layers, which it names.
    """
    if _V1 in state:
        raise FovealError(
            "is of MMDetection 1.x, whose background is the first class and whose boxes are a pixel larger",
            fix="Convert it with MMDetection's tools/model_converters/upgrade_model_version.py",
        )
    layout = _layout(state)
    names = {theirs: ours for ours, theirs in _layers(layout)}
    ours, unknown = renamed(state, names)
    averages = [key for key in unknown if key.startswith("ema_") and "." not in key]  # of MMCV's EMA hook
    other = [key for key in unknown if key not in averages]
    if other:
        shown = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
        raise FovealError(
            f"is an MMDetection model with layers that are not supported ({shown})",
            fix="Give its Faster R-CNN, Mask R-CNN or RetinaNet with a ResNet-FPN and without norms in neck and heads",
        )
    return layout, ours, averages


def ours_to_mmdetection(state: Mapping[str, Tensor], kind: FPNKind) -> StateDict:
    """The inverse of :func:`mmdetection_to_ours`."""
    return ours_renamed(state, kind, _layers, "MMDetection")


def _layout(state: Mapping[str, Tensor]) -> FPNLayout:
    blocks = blocks_of(state, "backbone.layer", 1)
    if _RETINA in state:
        return FPNLayout("retinanet", blocks, convs_of(state, r"bbox_head\.cls_convs\.\d+\.conv\.weight"))
    if _MASK in state:
        return FPNLayout("mask_rcnn", blocks, convs_of(state, r"roi_head\.mask_head\.convs\.\d+\.conv\.weight"))
    return FPNLayout("faster_rcnn", blocks)


def _layers(layout: FPNLayout) -> LayerPairs:
    body = ["conv1", "bn1"]
    for stage, blocks in enumerate(layout.blocks, 1):
        for block in range(blocks):
            layers = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "downsample.0", "downsample.1")
            body += [f"layer{stage}.{block}.{name}" for name in layers]
    yield from ((f"backbone.{name}", f"backbone.{name}") for name in body)
    for level in range(layout.levels):
        yield f"neck.inner_blocks.{level}.0", f"neck.lateral_convs.{level}.conv"
        yield f"neck.layer_blocks.{level}.0", f"neck.fpn_convs.{level}.conv"
    yield from _retinanet(layout) if layout.kind == "retinanet" else _regions(layout)


def _regions(layout: FPNLayout) -> LayerPairs:
    yield "rpn_head.conv.0.0", "rpn_head.rpn_conv"
    yield "rpn_head.cls_logits", "rpn_head.rpn_cls"
    yield "rpn_head.bbox_pred", "rpn_head.rpn_reg"
    yield "roi_head.trunk.fc6", "roi_head.bbox_head.shared_fcs.0"
    yield "roi_head.trunk.fc7", "roi_head.bbox_head.shared_fcs.1"
    yield "roi_head.predictor.cls_score", "roi_head.bbox_head.fc_cls"
    yield "roi_head.predictor.bbox_pred", "roi_head.bbox_head.fc_reg"
    if layout.kind == "mask_rcnn":
        for i in range(layout.convs):
            yield f"mask_head.trunk.{i}.0", f"roi_head.mask_head.convs.{i}.conv"
        yield "mask_head.predictor.conv5_mask", "roi_head.mask_head.upsample"
        yield "mask_head.predictor.mask_fcn_logits", "roi_head.mask_head.conv_logits"


def _retinanet(layout: FPNLayout) -> LayerPairs:
    for i, name in enumerate(("p6", "p7"), layout.levels):
        yield f"neck.extra_blocks.{name}", f"neck.fpn_convs.{i}.conv"
    for i in range(layout.convs):
        yield f"head.classification_head.conv.{i}.0", f"bbox_head.cls_convs.{i}.conv"
        yield f"head.regression_head.conv.{i}.0", f"bbox_head.reg_convs.{i}.conv"
    yield "head.classification_head.cls_logits", "bbox_head.retina_cls"
    yield "head.regression_head.bbox_reg", "bbox_head.retina_reg"
