"""Converts the keys of Detectron2's ResNet-FPN detectors, both ways: Faster R-CNN, Mask R-CNN and RetinaNet.

No value changes: as here, the background is the last class, and it has neither box nor mask. Source: the module tree of
Detectron2 0.6 (``modeling/backbone/resnet.py`` and ``fpn.py``, ``proposal_generator/rpn.py``, ``roi_heads``,
``meta_arch/retinanet.py``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ...errors import FovealError
from ..open import StateDict
from .layers import FPNKind, FPNLayout, LayerPairs, blocks_of, convs_of, ours_renamed, renamed

_BODY = "backbone.bottom_up."
_STEM = _BODY + "stem.conv1.weight"
_RPN, _RETINA = "proposal_generator.rpn_head.objectness_logits.weight", "head.cls_subnet.0.weight"
_ROI, _MASK = "roi_heads.box_predictor.cls_score.weight", "roi_heads.mask_head.predictor.weight"
_CELLS = re.compile(r"(?:proposal_generator\.)?anchor_generator\.cell_anchors\.(\d+)$")


@dataclass(frozen=True)
class Detectron2State:
    """A converted state, and the settings that older files store as buffers."""

    layout: FPNLayout
    state: StateDict
    cells: Mapping[int, Tensor]  # the anchors (A, 4) around the origin of each level
    mean: tuple[float, ...] | None  # of the pixels, 0 to 255, in the file's order of channels
    std: tuple[float, ...] | None


def is_detectron2(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of a Detectron2 detector with a ResNet-FPN."""
    return _STEM in state and any(key in state for key in (_RPN, _RETINA, _ROI))


def detectron2_to_ours(state: Mapping[str, Tensor]) -> Detectron2State:
    """A state under foveal's keys. Raises ``FovealError`` for a detector with other layers, which it names."""
    layout = _layout(state)
    names = {theirs: ours for ours, theirs in _layers(layout)}
    ours, unknown = renamed(state, names)
    cells = {int(match[1]): state[key] for key in unknown if (match := _CELLS.match(key))}
    other = [key for key in unknown if not _CELLS.match(key) and key not in ("pixel_mean", "pixel_std")]
    if other:
        shown = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
        raise FovealError(
            f"is a Detectron2 model with layers that are not supported ({shown})",
            fix="Give its Faster R-CNN, Mask R-CNN or RetinaNet with a ResNet-FPN and without norms in the heads",
        )
    if not any(key.endswith(".running_var") for key in ours):
        raise FovealError(
            "is a Detectron2 model whose norms have no statistics (group norm), which is not supported",
            fix="Give a model with frozen or trained batch norm",
        )
    mean, std = (
        tuple(round(v, 3) for v in state[key].flatten().tolist()) if key in state else None
        for key in ("pixel_mean", "pixel_std")
    )
    return Detectron2State(layout, ours, cells, mean, std)


def ours_to_detectron2(state: Mapping[str, Tensor], kind: FPNKind) -> StateDict:
    """The inverse of :func:`detectron2_to_ours`, without buffers of settings."""
    new = ours_renamed(state, kind, _layers, "Detectron2")
    return {key: value for key, value in new.items() if not key.endswith("num_batches_tracked")}


def _layout(state: Mapping[str, Tensor]) -> FPNLayout:
    blocks = blocks_of(state, _BODY + "res", 2)
    if _RETINA in state:
        return FPNLayout("retinanet", blocks, convs_of(state, r"head\.cls_subnet\.\d+\.weight"))
    if _MASK in state:
        return FPNLayout("mask_rcnn", blocks, convs_of(state, r"roi_heads\.mask_head\.mask_fcn\d+\.weight"))
    return FPNLayout("faster_rcnn", blocks)


def _layers(layout: FPNLayout) -> LayerPairs:
    yield "backbone.conv1", _BODY + "stem.conv1"
    yield "backbone.bn1", _BODY + "stem.conv1.norm"
    for stage, blocks in enumerate(layout.blocks, 1):
        for block in range(blocks):
            ours, theirs = f"backbone.layer{stage}.{block}", f"{_BODY}res{stage + 1}.{block}"
            for number in (1, 2, 3):
                yield f"{ours}.conv{number}", f"{theirs}.conv{number}"
                yield f"{ours}.bn{number}", f"{theirs}.conv{number}.norm"
            yield f"{ours}.downsample.0", f"{theirs}.shortcut"
            yield f"{ours}.downsample.1", f"{theirs}.shortcut.norm"
    for level in range(layout.levels):
        yield f"neck.inner_blocks.{level}.0", f"backbone.fpn_lateral{layout.first + level}"
        yield f"neck.layer_blocks.{level}.0", f"backbone.fpn_output{layout.first + level}"
    yield from _retinanet(layout) if layout.kind == "retinanet" else _regions(layout)


def _regions(layout: FPNLayout) -> LayerPairs:
    yield "rpn_head.conv.0.0", "proposal_generator.rpn_head.conv"
    yield "rpn_head.cls_logits", "proposal_generator.rpn_head.objectness_logits"
    yield "rpn_head.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"
    yield "roi_head.trunk.fc6", "roi_heads.box_head.fc1"
    yield "roi_head.trunk.fc7", "roi_heads.box_head.fc2"
    yield "roi_head.predictor.cls_score", "roi_heads.box_predictor.cls_score"
    yield "roi_head.predictor.bbox_pred", "roi_heads.box_predictor.bbox_pred"
    if layout.kind == "mask_rcnn":
        for i in range(layout.convs):
            yield f"mask_head.trunk.{i}.0", f"roi_heads.mask_head.mask_fcn{i + 1}"
        yield "mask_head.predictor.conv5_mask", "roi_heads.mask_head.deconv"
        yield "mask_head.predictor.mask_fcn_logits", "roi_heads.mask_head.predictor"


def _retinanet(layout: FPNLayout) -> LayerPairs:
    for name in ("p6", "p7"):
        yield f"neck.extra_blocks.{name}", f"backbone.top_block.{name}"
    for i in range(layout.convs):  # with their ReLUs they are one list
        yield f"head.classification_head.conv.{i}.0", f"head.cls_subnet.{2 * i}"
        yield f"head.regression_head.conv.{i}.0", f"head.bbox_subnet.{2 * i}"
    yield "head.classification_head.cls_logits", "head.cls_score"
    yield "head.regression_head.bbox_reg", "head.bbox_pred"
