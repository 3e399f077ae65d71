"""The layers of a Darknet cfg: settings, output shape, and number of floats in a weights file. No torch.

One frozen dataclass a kind of layer. ``read`` takes the values from a section and rejects invalid ones; ``shape`` and
``floats`` follow from the input's shape (channels, height, width). Source: ``parser.c`` and the layers of Darknet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

from .cfg import Section

Shape = tuple[int, int, int]  # channels, height, width
ACTIVATIONS = ("linear", "leaky", "relu", "relu6", "logistic", "mish", "swish", "tanh", "elu", "selu")


@dataclass(frozen=True)
class Kind(ABC):
    """The settings of one section."""

    @classmethod
    @abstractmethod
    def read(cls, section: Section, index: int) -> Self:
        """``index``: of the layer, from which relative indices count."""

    def sources(self, index: int) -> tuple[int, ...]:
        """The layers it reads; -1 is the image."""
        return (index - 1,)

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        """The shape of its output. Raises :class:`FovealError` for inputs that do not fit."""
        return inputs[0]

    def floats(self, inputs: Sequence[Shape]) -> int:
        """The number of its parameters in a weights file."""
        return 0


def read_activation(section: Section, default: str) -> str:
    name = section.text("activation", default)
    if name not in ACTIVATIONS:
        fix = f"Use one of {', '.join(ACTIVATIONS)}"
        raise section.error(f"activation {name!r} is not known", key="activation", fix=fix)
    return name


@dataclass(frozen=True)
class Convolutional(Kind):
    filters: int
    size: int
    stride: int
    padding: int  # pixels on every side
    groups: int
    norm: bool
    activation: str

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(
            binary=0, xnor=0, flipped=0, dilation=1, antialiasing=0, deform=0, stretch=0, sway=0, rotate=0, coordconv=0
        )
        size, stride = section.integer("size", 1, minimum=1), section.integer("stride", 1, minimum=1)
        section.refuse(stride_x=stride, stride_y=stride)
        padding = size // 2 if section.flag("pad") else section.integer("padding", 0, minimum=0)
        return cls(
            filters=section.integer("filters", minimum=1),
            size=size,
            stride=stride,
            padding=padding,
            groups=section.integer("groups", 1, minimum=1),
            norm=section.flag("batch_normalize"),
            activation=read_activation(section, "logistic"),
        )

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        c, h, w = inputs[0]
        if c % self.groups or self.filters % self.groups:
            what = f"groups is {self.groups}, which does not divide {c} input channels and {self.filters} filters"
            raise section.error(what, key="groups")
        height, width = ((side + 2 * self.padding - self.size) // self.stride + 1 for side in (h, w))
        return self.filters, height, width

    def floats(self, inputs: Sequence[Shape]) -> int:
        weights = inputs[0][0] // self.groups * self.filters * self.size**2
        return weights + (4 if self.norm else 1) * self.filters


@dataclass(frozen=True)
class Connected(Kind):
    outputs: int
    norm: bool
    activation: str

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        outputs, norm = section.integer("output", minimum=1), section.flag("batch_normalize")
        return cls(outputs, norm, read_activation(section, "logistic"))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        return self.outputs, 1, 1

    def floats(self, inputs: Sequence[Shape]) -> int:
        return self.outputs * (prod(inputs[0]) + (4 if self.norm else 1))


@dataclass(frozen=True)
class Local(Kind):
    """A locally connected layer: a convolution with different weights at every location."""

    filters: int
    size: int
    stride: int
    pad: bool  # by one pixel, whatever the size
    activation: str

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        size, pad = section.integer("size", minimum=1), section.flag("pad")
        if pad and size != 3:
            raise section.error(f"pad=1 with size={size} is not supported, only size=3", key="size")
        filters, stride = section.integer("filters", minimum=1), section.integer("stride", 1, minimum=1)
        return cls(filters, size, stride, pad, read_activation(section, "logistic"))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        height, width = ((side + 2 * self.pad - self.size) // self.stride + 1 for side in inputs[0][1:])
        return self.filters, height, width

    def floats(self, inputs: Sequence[Shape]) -> int:
        c, h, w = inputs[0]
        locations = prod((side + 2 * self.pad - self.size) // self.stride + 1 for side in (h, w))
        return locations * self.filters * (c * self.size**2 + 1)


@dataclass(frozen=True)
class MaxPool(Kind):
    size: int
    stride: int
    padding: int  # pixels in total; the smaller half is left and above

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(maxpool_depth=0, antialiasing=0, out_channels=1)
        stride = section.integer("stride", 1, minimum=1)
        section.refuse(stride_x=stride, stride_y=stride)
        size = section.integer("size", stride, minimum=1)
        padding = section.integer("padding", size - 1, minimum=0)
        if padding > 2 * (size - 1):
            raise section.error(f"padding is {padding}, more than windows of {size} pixels can reach", key="padding")
        return cls(size, stride, padding)

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        c, h, w = inputs[0]
        height, width = ((side + self.padding - self.size) // self.stride + 1 for side in (h, w))
        return c, height, width


@dataclass(frozen=True)
class AvgPool(Kind):
    """The mean of every channel."""

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        return cls()

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        return inputs[0][0], 1, 1


@dataclass(frozen=True)
class Upsample(Kind):
    """Every pixel repeated ``stride`` times both ways, times ``scale``."""

    stride: int
    scale: float

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        return cls(section.integer("stride", 2, minimum=1), section.number("scale", 1))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        c, h, w = inputs[0]
        return c, h * self.stride, w * self.stride


@dataclass(frozen=True)
class Reorg(Kind):
    """Pixels into channels, in Darknet's order (see :func:`foveal.parts.layers.darknet.reorg`)."""

    stride: int

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(reverse=0, flatten=0, extra=0)
        return cls(section.integer("stride", 1, minimum=1))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        (c, h, w), s = inputs[0], self.stride
        if h % s or w % s or c % (s * s):
            raise section.error(f"stride {s} does not divide a map of {c} x {h} x {w}", key="stride")
        return c * s * s, h // s, w // s


@dataclass(frozen=True)
class Dropout(Kind):
    probability: float

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(dropblock=0, dropblock_size_rel=0, dropblock_size_abs=0)
        probability = section.number("probability", 0.5)
        if not 0 <= probability < 1:
            raise section.error(f"probability is {probability:g}, expected 0 to 1", key="probability")
        return cls(probability)


@dataclass(frozen=True)
class Softmax(Kind):
    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(groups=1, temperature=1, spatial=0)
        if section.has("tree"):
            raise section.error("a tree of classes is not supported", key="tree")
        return cls()


@dataclass(frozen=True)
class Cost(Kind):
    """A classifier's loss; it computes nothing here."""

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        return cls()


@dataclass(frozen=True)
class Crop(Kind):
    """The middle of the image; values 0..1 become -1..1 unless ``noadjust``."""

    height: int
    width: int
    adjust: bool

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        height, width = section.integer("crop_height", minimum=1), section.integer("crop_width", minimum=1)
        return cls(height, width, not section.flag("noadjust"))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        c, h, w = inputs[0]
        if self.height > h or self.width > w:
            raise section.error(f"crops {self.height} x {self.width} from {h} x {w}")
        return c, self.height, self.width
