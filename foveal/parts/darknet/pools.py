"""The pooling layers of a Darknet cfg: ``[maxpool]``, ``[local_avgpool]``, ``[avgpool]``. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from .cfg import Section
from .layers import Kind, Shape, blurred, read_strides


@dataclass(frozen=True)
class MaxPool(Kind):
    """The maximum of each window; with ``depth`` of each group of channels (c modulo ``depth``) instead."""

    size: int
    strides: tuple[int, int]  # of rows, of columns
    padding: int  # pixels in total; the smaller half is left and above
    antialiasing: int = 0  # as of a convolution
    depth: int = 0  # channels of the output (``maxpool_depth=1``, ``out_channels``); 0: those of the input

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(maxpool_zero_nonmax=0)
        strides = read_strides(section)
        size = section.integer("size", section.integer("stride", 1), minimum=1)
        padding = section.integer("padding", size - 1, minimum=0)
        if padding > 2 * (size - 1):
            raise section.error(f"padding is {padding}, more than windows of {size} pixels can reach", key="padding")
        antialiasing = section.integer("antialiasing", 0, minimum=0)
        if not section.flag("maxpool_depth"):
            return cls(size, strides, padding, antialiasing)
        if antialiasing:
            raise section.error("antialiasing with maxpool_depth is not supported", key="antialiasing")
        return cls(size, strides, padding, depth=section.integer("out_channels", 1, minimum=1))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        c, h, w = inputs[0]
        if self.depth:
            if self.depth > c:
                what = f"out_channels is {self.depth}, more than the {c} of its input"
                raise section.error(what, key="out_channels")
            return self.depth, h, w
        strides = (1, 1) if self.antialiasing else self.strides
        sides = _pooled((h, w), self.size, strides, self.padding)
        return c, *(blurred(sides, self.antialiasing, self.strides) if self.antialiasing else sides)


@dataclass(frozen=True)
class LocalAvgPool(Kind):
    """The mean of each window, over the pixels that exist."""

    size: int
    strides: tuple[int, int]  # of rows, of columns
    padding: int  # pixels in total; the smaller half is left and above

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        size = section.integer("size", section.integer("stride", 1), minimum=1)
        padding = section.integer("padding", size - 1, minimum=0)
        if padding > 2 * (size - 1):
            raise section.error(f"padding is {padding}, more than windows of {size} pixels can reach", key="padding")
        return cls(size, read_strides(section), padding)

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        c, h, w = inputs[0]
        return c, *_pooled((h, w), self.size, self.strides, self.padding)


@dataclass(frozen=True)
class AvgPool(Kind):
    """The mean of every channel."""

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        return cls()

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        return inputs[0][0], 1, 1


def _pooled(sides: tuple[int, int], size: int, strides: tuple[int, int], padding: int) -> tuple[int, int]:
    height, width = ((side + padding - size) // stride + 1 for side, stride in zip(sides, strides, strict=True))
    return height, width
