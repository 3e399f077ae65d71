"""Metadata of the presets: family, size, published scores, comment. Does not import torch."""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.parse import describe
from ..config.show import show
from . import PAGES

CLASSES = 80  # of the stored parameter counts


@dataclass(frozen=True)
class PublishedScore:
    """A published score of this form of a detector; not measured here."""

    value: float  # percent
    protocol: str  # COCO is val2017 unless noted, VOC07 is VOC 2007 test
    source: str


@dataclass(frozen=True)
class Card:
    """Metadata of one preset."""

    count: int  # parameters with 80 classes, frozen ones included, buffers not
    per_class: int  # additional parameters per class
    about: str
    published: tuple[PublishedScore, ...]  # the first is the one that lists show

    def parameters(self, classes: int = CLASSES) -> int:
        """The number of parameters of the detector with ``classes`` classes."""
        return self.count + (classes - CLASSES) * self.per_class


def _card(count: int, per_class: int, about: str, *published: PublishedScore) -> Card:
    return Card(count, per_class, about, published)


def _coco(value: float, source: str = "torchvision") -> PublishedScore:
    return PublishedScore(value, "COCO AP", source)


def _dev(value: float, source: str) -> PublishedScore:
    return PublishedScore(value, "COCO test-dev AP", source)


def _mask(value: float, source: str = "torchvision") -> PublishedScore:
    return PublishedScore(value, "COCO mask AP", source)


def _voc(value: float, source: str) -> PublishedScore:
    return PublishedScore(value, "VOC07 mAP", source)


# fmt: off
# by family, in the order of the modules and of the presets in them
FAMILIES: dict[str, dict[str, Card]] = {
    "RetinaNet": {
        "retinanet_r50_fpn_paper": _card(37_915_572, 20_745, "the paper's form, ResNet-50",
            _coco(35.7, "Detectron, 1x")),
        "retinanet_r101_fpn_paper": _card(56_855_476, 20_745, "the paper's form, ResNet-101",
            _coco(37.7, "Detectron, 1x")),
        "retinanet_r50_fpn": _card(33_786_804, 20_745, "torchvision's first form, ResNet-50", _coco(36.4)),
        "retinanet_r50_fpn_v2": _card(37_970_740, 20_745, "torchvision's second form: group norm, GIoU", _coco(41.5)),
    },
    "FCOS": {
        "fcos_r50_fpn_improved": _card(32_244_250, 2_305, "the authors' improved form: center sampling, GIoU",
            _coco(38.7, "the authors' code, 1x")),
        "fcos_r50_fpn_paper": _card(32_244_250, 2_305, "the paper's first form", _coco(37.1, "the authors' code, 1x")),
        "fcos_r50_fpn": _card(32_244_245, 2_305, "torchvision's form, ResNet-50", _coco(39.2)),
    },
    "SSD and DSSD": {
        "ssd300_vgg16_paper": _card(34_305_206, 133_662, "the released code, 300 px, VOC",
            _voc(77.2, "the released code"), _voc(74.3, "Liu et al. 2016")),
        "ssd300_vgg16_coco_paper": _card(34_305_206, 133_662, "the released code, 300 px, COCO's box sizes",
            PublishedScore(25.1, "COCO test-dev2015 AP", "Liu et al. 2016"),
            PublishedScore(43.1, "COCO test-dev2015 AP50", "Liu et al. 2016")),
        "ssd512_vgg16_paper": _card(36_038_196, 147_492, "the released code, 512 px, VOC",
            _voc(79.8, "the released code"), _voc(76.8, "Liu et al. 2016")),
        "ssd512_vgg16_coco_paper": _card(36_038_196, 147_492, "the released code, 512 px, COCO's box sizes",
            PublishedScore(28.8, "COCO test-dev2015 AP", "Liu et al. 2016"),
            PublishedScore(48.5, "COCO test-dev2015 AP50", "Liu et al. 2016")),
        "ssd300_vgg16": _card(34_305_206, 133_662, "torchvision's form, 300 px", _coco(25.1)),
        "ssd512_vgg16": _card(36_038_196, 147_492, "the paper's SSD512 by torchvision's rules"),
        "ssdlite320_mobilenet_v3_large": _card(3_301_460, 13_860, "torchvision's SSDLite: small and fast, 320 px",
            _coco(21.3)),
        "ssd321_r101": _card(148_445_232, 704_560, "SSD on ResNet-101, 321 px",
            _voc(77.5, "the authors' code"), _voc(77.1, "Fu et al. 2017"), _dev(28.0, "Fu et al. 2017")),
        "ssd513_r101": _card(150_201_048, 778_296, "SSD on ResNet-101, 513 px",
            _voc(80.6, "Fu et al. 2017"), _dev(31.2, "Fu et al. 2017")),
        "dssd321_r101": _card(204_299_824, 704_560, "DSSD on ResNet-101, 321 px; starts from ssd321_r101",
            _voc(78.6, "the authors' code"), _dev(28.0, "Fu et al. 2017")),
        "dssd513_r101": _card(211_957_464, 778_296, "DSSD on ResNet-101, 513 px; starts from ssd513_r101",
            _voc(81.5, "Fu et al. 2017"), _dev(33.2, "Fu et al. 2017")),
    },
    "YOLO": {
        "yolo_v1": _card(283_748_730, 200_753, "the paper's: 24 convolutions, two connected layers",
            _voc(63.4, "Redmon et al. 2016")),
        "yolo_v1_local": _card(234_184_175, 614_705, "Darknet's later form: batch norm, a local layer"),
        "yolo_v1_tiny": _card(63_977_674, 614_705, "eight convolutions"),
        "yolo_v2": _card(50_962_889, 5_125, "Darknet-19, anchors of VOC",
            _voc(76.8, "YOLOv2 paper, 416 px"), _voc(78.6, "YOLOv2 paper, 544 px")),
        "yolo_v2_coco": _card(50_962_889, 5_125, "Darknet-19, anchors of COCO", _dev(21.6, "YOLOv2 paper")),
        "yolo_v2_tiny": _card(16_169_273, 5_125, "eight convolutions, anchors of VOC"),
        "yolo_v2_tiny_coco": _card(11_232_057, 2_565, "eight convolutions, anchors of COCO"),
        "yolo_v3": _card(61_949_149, 5_385, "Darknet-53, three levels, nine anchors",
            _dev(31.0, "YOLOv3 paper, 416 px"), _dev(33.0, "YOLOv3 paper, 608 px"),
            PublishedScore(55.3, "COCO test-dev AP50", "YOLOv3 paper, 416 px"),
            PublishedScore(57.9, "COCO test-dev AP50", "YOLOv3 paper, 608 px")),
        "yolo_v3_spp": _card(62_998_749, 5_385, "yolo_v3 with spatial pyramid pooling, 608 px"),
        "yolo_v3_tiny": _card(8_852_366, 2_310, "seven convolutions, two levels"),
    },
    "DETR": {
        "detr_r50": _card(41_521_941, 257, "the paper's form, ResNet-50, 500 epochs",
            _coco(42.0, "Carion et al. 2020")),
        "detr_r50_dc5": _card(41_521_941, 257, "dilated last stage (DC5)", _coco(43.3, "Carion et al. 2020")),
        "detr_r101": _card(60_461_845, 257, "ResNet-101", _coco(43.5, "Carion et al. 2020")),
        "detr_r101_dc5": _card(60_461_845, 257, "ResNet-101, dilated last stage (DC5)",
            _coco(44.9, "Carion et al. 2020")),
        "detr_mini": _card(1_106_357, 129, "small; trains from scratch in half an hour on a CPU"),
    },
    "R-CNN": {
        "rcnn_alexnet": _card(60_149_521, 40_965, "the paper's form, AlexNet",
            _voc(54.2, "Girshick et al. 2014, SVMs"), _voc(58.5, "Girshick et al. 2014, with boxes")),
        "rcnn_vgg16": _card(142_620_881, 104_453, "the paper's form, VGG-16",
            _voc(62.2, "Girshick et al. 2014, SVMs"), _voc(66.0, "Girshick et al. 2014, with boxes")),
    },
    "SPP-Net": {
        "spp_net_zf5": _card(77_368_849, 55_301, "the paper's form, ZF-5", _voc(58.0, "He et al. 2014")),
        "spp_net_zf5_5_scales": _card(77_368_849, 55_301, "the paper's form at five scales",
            _voc(59.2, "He et al. 2014")),
    },
    "Fast R-CNN": {
        "fast_rcnn_vgg16": _card(135_903_441, 20_485, "the paper's form, VGG-16",
            _voc(66.9, "Girshick 2015, VOC 07"), _voc(70.0, "Girshick 2015, VOC 07+12")),
        "fast_rcnn_caffenet": _card(58_511_121, 20_485, "the paper's small network, CaffeNet"),
        "fast_rcnn_vgg16_multi_scale": _card(135_903_441, 20_485, "fast_rcnn_vgg16 at five scales"),
        "fast_rcnn_caffenet_multi_scale": _card(58_511_121, 20_485, "fast_rcnn_caffenet at five scales"),
    },
    "Faster R-CNN": {
        "faster_rcnn_r50_fpn": _card(41_699_936, 5_125, "torchvision's first form, ResNet-50 with FPN", _coco(37.0)),
        "faster_rcnn_r50_fpn_v2": _card(43_656_928, 5_125, "torchvision's second form; alias accurate", _coco(46.7)),
        "faster_rcnn_mobilenet_v3_large_fpn": _card(19_331_004, 5_125, "torchvision's, MobileNetV3", _coco(32.8)),
        "faster_rcnn_mobilenet_v3_large_320_fpn": _card(19_331_004, 5_125,
            "torchvision's MobileNetV3, 320 px; alias fast", _coco(22.8)),
        "faster_rcnn_r50_fpn_paper": _card(41_699_936, 5_125, "the FPN paper's form, ResNet-50",
            _coco(36.7, "Detectron, 1x")),
        "faster_rcnn_r101_fpn": _card(60_639_840, 5_125, "the FPN paper's form, ResNet-101",
            _coco(39.4, "Detectron, 1x")),
        "faster_rcnn_x101_fpn": _card(104_784_480, 5_125, "the FPN paper's form, ResNeXt-101 32x8d"),
        "faster_rcnn_vgg16": _card(138_286_334, 20_485, "the first paper's form, VGG-16, end to end",
            _voc(73.2, "Ren et al. 2015, VOC 07+12")),
        "faster_rcnn_vgg16_alternating": _card(138_286_334, 20_485, "the first paper's alternating training",
            _voc(69.9, "Ren et al. 2015, VOC 07"), _voc(73.2, "Ren et al. 2015, VOC 07+12")),
        "faster_rcnn_vgg16_focal_rpn": _card(138_286_334, 20_485, "focal loss in the RPN"),
        "faster_rcnn_r50_c4": _card(33_791_644, 10_245, "ResNet-50, one level (C4)", _coco(34.8, "Detectron, 1x")),
        "faster_rcnn_r101_c4": _card(52_731_548, 10_245, "ResNet-101, one level (C4)",
            _dev(34.9, "He et al. 2016, multi-scale tests and context")),
        "faster_rcnn_luminoth": _card(47_966_349, 10_245, "Luminoth's defaults, ResNet-101"),
        "faster_rcnn_inception_resnet_v2": _card(59_907_053, 7_685, "G-RMI's, Inception-ResNet-v2 (needs timm)",
            _coco(34.7, "Huang et al. 2017")),
        "rpn_r50_fpn": _card(27_393_231, 0, "the region proposal network alone",
            PublishedScore(58.0, "COCO AR@1000", "Detectron2")),
    },
    "Mask R-CNN": {
        "mask_rcnn_r50_fpn": _card(44_343_216, 5_382, "torchvision's first form, ResNet-50 with FPN",
            _coco(37.9), _mask(34.6)),
        "mask_rcnn_r50_fpn_v2": _card(46_301_232, 5_382, "torchvision's second form", _coco(47.4), _mask(41.8)),
    },
    "Small, trained from scratch": {
        "retinanet_mini": _card(2_672_660, 7_785, "RetinaNet, small"),
        "fcos_mini": _card(2_093_013, 865, "FCOS, small"),
        "faster_rcnn_mini": _card(2_979_759, 1_285, "Faster R-CNN, small: a good first choice"),
        "faster_rcnn_mini_alternating": _card(2_979_759, 1_285, "its alternating training in four steps"),
        "fast_rcnn_mini": _card(2_893_809, 1_285, "Fast R-CNN, small, on selective search"),
        "faster_rcnn_mini_focal_rpn": _card(2_979_759, 1_285, "Faster R-CNN, small, with focal loss in the RPN"),
        "mask_rcnn_mini": _card(3_093_695, 1_350, "Mask R-CNN, small; needs data with masks"),
        "yolo_v1_mini": _card(773_514, 258, "YOLOv1, small"),
        "yolo_v2_mini": _card(808_265, 645, "YOLOv2, small"),
        "yolo_v3_mini": _card(809_566, 1_158, "YOLOv3, small"),
        "ssd_mini": _card(3_556_228, 25_364, "SSD, small"),
        "dssd_mini": _card(3_145_732, 11_540, "DSSD, small"),
        "rpn_mini": _card(1_606_430, 0, "the region proposal network alone, small"),
        "rcnn_mini": _card(2_575_985, 9_477, "R-CNN, small"),
        "spp_net_mini": _card(1_942_897, 13_061, "SPP-Net, small"),
    },
    "Small, on EfficientNet-Lite0": {
        "retinanet_lite": _card(4_366_868, 7_785, "RetinaNet; needs pip install 'foveal[pretrained]', as all five"),
        "fcos_lite": _card(3_787_221, 865, "FCOS"),
        "faster_rcnn_lite": _card(4_673_967, 1_285, "Faster R-CNN"),
        "mask_rcnn_lite": _card(4_787_903, 1_350, "Mask R-CNN; needs data with masks"),
        "ssd_lite": _card(5_325_668, 26_228, "SSD, 320 px"),
    },
}
# fmt: on
CARDS = {name: card for family in FAMILIES.values() for name, card in family.items()}


# ---------------------------------------------------------------------------------------------- comments
def comments() -> dict[str, str]:
    """The comment of each preset: the lines above it and its trailing comment. Empty without the source."""
    by_name: dict[str, str] = {}
    for page in PAGES:
        path = Path(__file__).with_name(f"{page}.py")
        if path.is_file():
            by_name |= _comments(path.read_text(encoding="utf-8"))
    return by_name


def _comments(source: str) -> dict[str, str]:
    lines = source.splitlines()
    by_name: dict[str, str] = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        above: list[str] = []
        line = node.lineno - 1  # the one above, counted from 1
        while line and lines[line - 1].startswith("#"):
            above.insert(0, lines[line - 1].lstrip("# ").rstrip())
            line -= 1
        trailing = lines[node.lineno - 1].partition("  # ")[2]
        by_name[node.targets[0].id] = " ".join([text for text in above if "-----" not in text] + [trailing]).strip()
    return by_name


# ---------------------------------------------------------------------------------------------- settings
def setting_rows(spec: Any, path: str = "") -> list[tuple[str, str, str]]:
    """Every setting as (path, value as text, help); a part comes before its own settings."""
    rows: list[tuple[str, str, str]] = []
    for row in describe(spec):
        value = getattr(spec, row.name)
        row_path = f"{path}.{row.name}" if path else row.name
        if dataclasses.is_dataclass(value) and dataclasses.fields(value):
            rows.append((row_path, f"{type(value).__name__}(...)", row.help))
            rows += setting_rows(value, row_path)
        else:
            rows.append((row_path, show(value, width=10**9), row.help))
    return rows
