"""Darknet's detection layers: ``[detection]`` (YOLOv1), ``[region]`` (YOLOv2), ``[yolo]`` (YOLOv3).

They have no parameters; their input is the raw output of the layer before, whose channels must fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

from .cfg import Section
from .layers import Kind, Shape

Pairs = tuple[tuple[float, float], ...]


def _checked_anchors(section: Section, number: int) -> Pairs:
    pairs = section.pairs("anchors")
    if len(pairs) != number:
        raise section.error(f"anchors has {len(pairs)} pairs, num is {number}", key="anchors")
    if any(side <= 0 for pair in pairs for side in pair):
        raise section.error("anchors has a side that is not above 0", key="anchors")
    return pairs


def _check_channels(section: Section, shape: Shape, boxes: int, classes: int) -> None:
    channels = boxes * (5 + classes)
    if shape[0] != channels:
        what = f"{boxes} boxes of 5 + {classes} classes need {channels} channels, the layer before has {shape[0]}"
        raise section.error(what, fix=f"Set filters={channels} there, or classes and {_boxes(section)} here")


def _share(section: Section, key: str) -> float:
    value = section.number(key, 0.5)
    if not 0 <= value <= 1:
        raise section.error(f"{key} is {value:g}, expected an IoU from 0 to 1", key=key)
    return value


def _boxes(section: Section) -> str:
    return "mask" if section.kind == "yolo" else "num"


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


@dataclass(frozen=True)
class Yolo(Kind):
    """YOLOv3: the anchors of this scale are those that ``mask`` names."""

    classes: int
    anchors: Pairs  # all of them; width, height in input pixels
    mask: tuple[int, ...]
    ignore_thresh: float  # IoU above which a box without an object is ignored by the objectness loss
    scale_xy: float  # of the offset in the cell, around its middle

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(new_coords=0)
        anchors = _checked_anchors(section, section.integer("num", minimum=1))
        mask = section.integers("mask", tuple(range(len(anchors))))
        for k in mask:
            if not 0 <= k < len(anchors):
                what = f"mask names anchor {k}, there are {len(anchors)}"
                raise section.error(what, key="mask", fix=f"Use 0 to {len(anchors) - 1}")
        if len(set(mask)) < len(mask):
            raise section.error(f"mask {section.text('mask')} names an anchor twice", key="mask")
        scale = section.number("scale_x_y", 1)
        if scale < 1:
            raise section.error(f"scale_x_y is {scale:g}, expected 1 or more", key="scale_x_y")
        return cls(section.integer("classes", minimum=1), anchors, mask, _share(section, "ignore_thresh"), scale)

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        _check_channels(section, inputs[0], len(self.mask), self.classes)
        return inputs[0]

    @property
    def boxes(self) -> int:
        return len(self.mask)


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
