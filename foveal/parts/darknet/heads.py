"""Darknet's detection layers: ``[detection]`` (YOLOv1), ``[region]`` (YOLOv2), ``[yolo]`` (YOLOv3 and later) and
``[Gaussian_yolo]``.

They have no parameters; their input is the raw output of the layer before, whose channels must fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal, Self, cast, get_args

from .cfg import Section
from .layers import Kind, Shape

Pairs = tuple[tuple[float, float], ...]


def _checked_anchors(section: Section, number: int, mask: tuple[int, ...] = ()) -> Pairs:
    """The first ``number`` pairs, as Darknet; more where ``mask`` names them, which is beyond its memory there."""
    pairs = section.pairs("anchors", number)
    if len(pairs) < number:
        raise section.error(f"anchors has {len(pairs)} pairs, num is {number}", key="anchors")
    pairs = pairs[: max(number, *(k + 1 for k in mask), 0)]
    if any(side <= 0 for pair in pairs for side in pair):
        raise section.error("anchors has a side that is not above 0", key="anchors")
    return pairs


def _check_channels(section: Section, shape: Shape, boxes: int, classes: int, values: int = 5) -> None:
    channels = boxes * (values + classes)
    if shape[0] != channels:
        what = (
            f"{boxes} boxes of {values} + {classes} classes need {channels} channels, the layer before has {shape[0]}"
        )
        raise section.error(what, fix=f"Set filters={channels} there, or classes and {_boxes(section)} here")


def _share(section: Section, key: str) -> float:
    value = section.number(key, 0.5)
    if not 0 <= value <= 1:
        raise section.error(f"{key} is {value:g}, expected an IoU from 0 to 1", key=key)
    return value


def _boxes(section: Section) -> str:
    return "num" if section.kind == "region" else "mask"


@dataclass(frozen=True)
class HeadScales:
    """The weights of the parts of the loss, and whether the target of objectness is the IoU (``rescore``)."""

    object: float
    nothing: float
    classes: float
    box: float
    rescore: bool

    @classmethod
    def read(cls, section: Section) -> Self:
        names = ("object_scale", "noobject_scale", "class_scale", "coord_scale")
        positive, negative, classes, box = (section.number(name, 1) for name in names)
        return cls(positive, negative, classes, box, section.flag("rescore"))


@dataclass(frozen=True)
class Region(Kind):
    """YOLOv2: ``num`` anchors in cells."""

    classes: int
    anchors: Pairs  # width, height in cells
    softmax: bool  # over the classes; otherwise a logistic function for each class
    thresh: float  # IoU above which a box without an object is ignored by the objectness loss
    scales: HeadScales

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(coords=4, background=0)
        for key in ("tree", "map"):
            if section.has(key):
                raise section.error(f"{key}: YOLO9000's tree of classes is not supported", key=key)
        return cls(
            classes=section.integer("classes", minimum=1),
            anchors=_checked_anchors(section, section.integer("num", minimum=1)),
            softmax=section.flag("softmax"),
            thresh=_share(section, "thresh"),
            scales=HeadScales.read(section),
        )

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        _check_channels(section, inputs[0], len(self.anchors), self.classes)
        return inputs[0]

    @property
    def boxes(self) -> int:
        return len(self.anchors)


IoULoss = Literal["mse", "iou", "giou", "diou", "ciou"]


@dataclass(frozen=True)
class YoloTraining:
    """How a ``[yolo]`` layer learns and suppresses, in the settings of AlexeyAB's Darknet."""

    iou_loss: IoULoss  # of the boxes
    iou_normalizer: float  # its weight
    obj_normalizer: float  # that of objectness
    max_delta: float | None  # largest gradient of a box's value under an IoU loss
    iou_thresh: float | None  # anchors whose shape has a larger IoU with an object's are assigned to it too; None: none
    uc_normalizer: float  # weight of the uncertainties of [Gaussian_yolo]
    smooth: bool  # objectness learns the IoU of boxes (``objectness_smooth``)
    nms_exponent: float | None  # of the distance in DIoU-NMS; None: the IoU alone

    @classmethod
    def read(cls, section: Section) -> Self:
        loss = section.text("iou_loss", "mse")
        if loss not in get_args(IoULoss):
            raise section.error(
                f"iou_loss is {loss!r}", key="iou_loss", fix=f"Use one of {', '.join(get_args(IoULoss))}"
            )
        given = loss != "mse" or section.has("iou_normalizer")  # pjreddie's Darknet has a weight of 1
        nms = section.text("nms_kind", "default")
        if nms not in ("default", "greedynms", "diounms", "cornersnms"):
            raise section.error(f"nms_kind is {nms!r}", key="nms_kind", fix="Use default, greedynms or diounms")
        thresh = section.number("iou_thresh", 1)
        return cls(
            iou_loss=cast(IoULoss, loss),
            iou_normalizer=_positive(section, "iou_normalizer", 0.75 if given else 1.0),
            obj_normalizer=_positive(section, "obj_normalizer", 1.0),
            max_delta=_positive(section, "max_delta", 1.0) if section.has("max_delta") else None,
            iou_thresh=thresh if thresh < 1 else None,
            uc_normalizer=_positive(section, "uc_normalizer", 1.0),
            smooth=section.flag("objectness_smooth"),
            nms_exponent={"greedynms": 0.6, "diounms": section.number("beta_nms", 0.6)}.get(nms),
        )


@dataclass(frozen=True)
class Yolo(Kind):
    """YOLOv3 and later: the anchors of this scale are those that ``mask`` names."""

    values: ClassVar[int] = 5  # outputs of a box before its classes

    classes: int
    anchors: Pairs  # all of them; width, height in input pixels
    mask: tuple[int, ...]
    ignore_thresh: float  # IoU above which a box without an object is ignored by the objectness loss
    scale_xy: float  # of the offset in the cell, around its middle
    new_coords: bool  # sides are (2 s)^2 anchors, and all values are those of a logistic layer before
    training: YoloTraining

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(**cls.fixed())
        number = section.integer("num", minimum=1)
        mask = section.integers("mask", tuple(range(number)))
        anchors = _checked_anchors(section, number, mask)
        for k in mask:
            if not 0 <= k < len(anchors):
                what = f"mask names anchor {k}, there are {len(anchors)}"
                raise section.error(what, key="mask", fix=f"Use 0 to {len(anchors) - 1}")
        if len(set(mask)) < len(mask):
            raise section.error(f"mask {section.text('mask')} names an anchor twice", key="mask")
        scale = section.number("scale_x_y", 1)
        if scale < 1:
            raise section.error(f"scale_x_y is {scale:g}, expected 1 or more", key="scale_x_y")
        return cls(
            section.integer("classes", minimum=1),
            anchors,
            mask,
            _share(section, "ignore_thresh"),
            scale,
            section.flag("new_coords"),
            YoloTraining.read(section),
        )

    @classmethod
    def fixed(cls) -> dict[str, float]:
        """Settings with one supported value."""
        return {}

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        _check_channels(section, inputs[0], len(self.mask), self.classes, self.values)
        return inputs[0]

    @property
    def boxes(self) -> int:
        return len(self.mask)


@dataclass(frozen=True)
class GaussianYolo(Yolo):
    """``[Gaussian_yolo]``: each value of a box is followed by its uncertainty (Choi et al. 2019)."""

    values: ClassVar[int] = 9

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        if section.text("yolo_point", "center") != "center":
            raise section.error("only yolo_point=center is supported", key="yolo_point")
        return super().read(section, index)

    @classmethod
    def fixed(cls) -> dict[str, float]:
        return {"new_coords": 0}


def _positive(section: Section, key: str, default: float) -> float:
    value = section.number(key, default)
    if value < 0:
        raise section.error(f"{key} is {value:g}, expected 0 or more", key=key)
    return value


@dataclass(frozen=True)
class Detection(Kind):
    """YOLOv1: ``side`` x ``side`` cells; class scores of all cells first, then confidences, then boxes."""

    classes: int
    side: int
    boxes: int
    scales: HeadScales

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(coords=4, softmax=0)
        if not section.flag("sqrt"):
            raise section.error("sqrt=0 (sides and not their roots) is not supported", key="sqrt", fix="Set sqrt=1")
        classes, side = section.integer("classes", minimum=1), section.integer("side", minimum=1)
        return cls(classes, side, section.integer("num", minimum=1), HeadScales.read(section))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        outputs = self.side**2 * (self.classes + 5 * self.boxes)
        if prod(inputs[0]) != outputs:
            what = f"{self.side} x {self.side} cells of {self.classes} classes and {self.boxes} boxes need {outputs}"
            raise section.error(f"{what} outputs, the layer before has {prod(inputs[0])}")
        return inputs[0]


Head = Region | Yolo | Detection
