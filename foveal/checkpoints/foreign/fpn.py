"""What the imports of Detectron2 and MMDetection share: network, classes and parts of a ResNet-FPN detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ...assembly.proposers import Counts
from ...detectors.faster_rcnn import ROI_TASK, RPN_TASK, FasterRCNN
from ...detectors.mask_rcnn import MaskRCNN
from ...detectors.retinanet import RetinaNet
from ...errors import FovealError, UsageError
from ...parts.backbones.torchvision import Torchvision
from ...parts.heads.dense import Tower
from ...parts.heads.mask import MaskHead
from ...parts.heads.roi import Predictor, RoIMLP
from ...parts.losses.box import L1
from ...parts.losses.normalizers import Positives, Sampled
from ...parts.matching.iou import IoUMatcher
from ...parts.necks.fpn import FPN
from ...parts.pooling.roi_align import RoIAlign
from ...parts.priors.anchors import Anchors, PyramidAnchors
from ...parts.resizing import PixelStatistics, Resize
from ...weights.coco_names import COCO_NAMES
from ...weights.fpn.layers import FPNLayout

FPNSpec = FasterRCNN | RetinaNet
_STAGES = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# the network by its blocks and the weights (width, width / groups) of the first 3 x 3 convolution
_NETWORKS: Mapping[tuple[tuple[int, ...], tuple[int, int]], str] = {
    (_STAGES[50], (64, 64)): "resnet50",
    (_STAGES[101], (64, 64)): "resnet101",
    (_STAGES[152], (64, 64)): "resnet152",
    (_STAGES[50], (128, 4)): "resnext50_32x4d",
    (_STAGES[101], (256, 8)): "resnext101_32x8d",
    (_STAGES[101], (256, 4)): "resnext101_64x4d",
    (_STAGES[50], (128, 128)): "wide_resnet50_2",
    (_STAGES[101], (128, 128)): "wide_resnet101_2",
}
_NONZERO = 1e-6  # pixels: both tools drop boxes without area and no others
LEVEL_STRIDES = {"faster_rcnn": (4, 8, 16, 32, 64), "mask_rcnn": (4, 8, 16, 32, 64), "retinanet": (8, 16, 32, 64, 128)}


def network_of(layout: FPNLayout, state: Mapping[str, Tensor]) -> str:
    """torchvision's name of the backbone of a state under our keys. Raises ``FovealError`` for any other network."""
    first = state.get("backbone.layer1.0.conv2.weight")
    shape = (0, 0) if first is None or first.dim() != 4 else (first.shape[0], first.shape[1])
    name = _NETWORKS.get((layout.blocks, shape))
    if name is None:
        listed = ", ".join(map(str, layout.blocks))
        raise FovealError(
            f"has a backbone of {listed} bottleneck blocks with {shape[0]} channels, which is not supported",
            fix=f"Give a model on one of {', '.join(_NETWORKS.values())}",
        )
    return name


def fpn_spec(layout: FPNLayout, network: str, state: Mapping[str, Tensor]) -> FPNSpec:
    """The detector of both tools with these layers; they differ in what :mod:`detectron2` and :mod:`mmdetection` set.

    Boxes are L1, pooling has as many samples as a bin has cells, at their true locations; anchors are centered at the
    corners of cells; images are resized to the nearest whole pixel.
    """
    backbone, rule = Torchvision(network), Resize(nearest=True)
    if layout.kind == "retinanet":
        p6 = state.get("neck.extra_blocks.p6.weight")
        width = _rows(state, "head.classification_head.conv.0.0.weight", 256)
        task = replace(
            RetinaNet().task,
            matcher=IoUMatcher(0.5, 0.4, low_quality=True),
            box_loss=L1(normalizer=Positives(across_ranks=True)),
        )
        is_c5 = p6 is None or p6.dim() < 2 or p6.shape[1] != p6.shape[0]
        return RetinaNet(
            input=rule,
            backbone=backbone,
            neck=FPN(_rows(state, "neck.inner_blocks.0.0.weight", 256), extra="p6p7-c5" if is_c5 else "p6p7-p5"),
            head=Tower(depth=layout.convs, channels=None if width == 256 else width),
            anchors=PyramidAnchors(scale=4.0, octaves=3, center=0.0),
            task=task,
        )
    boxes, rows = _rows(state, "roi_head.predictor.bbox_pred.weight", 0), columns_of(layout, state)
    plain = RoIMLP(
        _rows(state, "roi_head.trunk.fc6.weight", 1024),
        predictor=Predictor(agnostic=boxes == 4 and rows != 1),
    )
    parts = {
        "input": rule,
        "backbone": backbone,
        "neck": FPN(_rows(state, "neck.inner_blocks.0.0.weight", 256), extra="pool"),
        "anchors": Anchors(),
        "rpn": replace(RPN_TASK, box_loss=L1(normalizer=Sampled()), select=replace(RPN_TASK.select, min_size=_NONZERO)),
        "pool": RoIAlign(7, ratio=0, aligned=True),
        "roi_head": plain,
        "roi": replace(ROI_TASK, box_loss=L1(normalizer=Sampled()), select=replace(ROI_TASK.select, min_size=_NONZERO)),
        "train_proposals": Counts(2000, 1000),
        "test_proposals": Counts(1000, 1000),
    }
    if layout.kind == "mask_rcnn":
        mask = MaskHead(
            pool=RoIAlign(14, ratio=0, aligned=True),
            convs=layout.convs,
            channels=_rows(state, "mask_head.trunk.0.0.weight", 256),
        )
        return MaskRCNN(**parts, mask=mask)  # type: ignore[arg-type]
    return FasterRCNN(**parts)  # type: ignore[arg-type]


def columns_of(layout: FPNLayout, state: Mapping[str, Tensor]) -> int:
    """The number of classes of a state under our keys."""
    if layout.kind != "retinanet":
        return max(0, _rows(state, "roi_head.predictor.cls_score.weight", 1) - 1)
    anchors = _rows(state, "head.regression_head.bbox_reg.weight", 4) // 4
    return _rows(state, "head.classification_head.cls_logits.weight", 0) // max(1, anchors)


def class_names(count: int, names: Sequence[str] | None, stored: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    """Those given, else those in the file, else COCO's for 80 classes. Raises ``FovealError`` for another number."""
    chosen = names if names is not None else stored
    if chosen is None:
        coco = tuple(name for name in COCO_NAMES if not name.startswith("unused"))
        return coco if count == len(coco) else tuple(f"class {i}" for i in range(1, count + 1))
    if len(chosen) != count:
        where = "were given" if names is not None else "are stored with it"
        raise FovealError(f"has {count} classes, but {len(chosen)} names {where}", path=path)
    return tuple(map(str, chosen))


def pixel_statistics(mean: Sequence[float], std: Sequence[float], *, bgr: bool) -> PixelStatistics:
    """(mean, std), RGB on the scale 0..1, of values on the scale 0..255. Raises ``UsageError`` for no RGB values."""
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UsageError(f"pixels with mean {tuple(mean)} and std {tuple(std)}, expected three numbers each")
    order = (2, 1, 0) if bgr else (0, 1, 2)
    m, s = ([round(values[i] / 255, 9) for i in order] for values in (mean, std))
    return (m[0], m[1], m[2]), (s[0], s[1], s[2])


def in_rgb(state: Mapping[str, Tensor], *, bgr: bool) -> dict[str, Tensor]:
    """The state for pixels in RGB: of a network that was trained on BGR the channels of the first layer turn around."""
    first = "backbone.conv1.weight"
    return {**state, first: state[first].flip(1)} if bgr and first in state else dict(state)


def no_preset(preset: str | None, tool: str) -> None:
    """Raises ``UsageError`` where a preset is given: it would compute another function of these weights."""
    if preset is not None:
        raise UsageError(
            f"a {tool} file determines its own detector, and {preset} computes another function of its weights",
            where="--preset",
            fix="Leave the preset out, and change settings as key=value",
        )


def _rows(state: Mapping[str, Tensor], key: str, default: int) -> int:
    """The output channels of a layer; ``default`` where it is missing, which the loading reports."""
    return int(state[key].shape[0]) if key in state and state[key].dim() else default
