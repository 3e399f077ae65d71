"""The layers of a Darknet cfg: settings, output shape, and number of floats in a weights file. No torch.

One frozen dataclass a kind of layer. ``read`` takes the values from a section and rejects invalid ones; ``shape`` and
``floats`` follow from the input's shape (channels, height, width). Source: ``parser.c`` and the layers of Darknet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, Self

from ...errors import nearest
from .cfg import Section

Shape = tuple[int, int, int]  # channels, height, width
ACTIVATIONS = (
    *("linear", "leaky", "relu", "relu6", "logistic", "mish", "swish", "tanh", "elu", "selu", "gelu", "hard_mish"),
    *("loggy", "relie", "ramp", "plse", "hardtan", "lhtan", "stair"),
    *("normalize_channels", "normalize_channels_softmax", "normalize_channels_softmax_maxval"),
)


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
        fix = f"{nearest(name, ACTIVATIONS)} Use one of {', '.join(ACTIVATIONS)}".strip()
        raise section.error(f"activation {name!r} is not known", key="activation", fix=fix)
    return name


def read_strides(section: Section) -> tuple[int, int]:
    """``stride`` or ``stride_y`` and ``stride_x``: of rows, of columns."""
    stride = section.integer("stride", 1, minimum=1)
    return section.integer("stride_y", stride, minimum=1), section.integer("stride_x", stride, minimum=1)


def blurred(sides: Sequence[int], antialiasing: int, strides: tuple[int, int]) -> tuple[int, int]:
    """The sides of a map (height, width) after the fixed filter of ``antialiasing``, which has the layer's stride."""
    size, padding = (2, 0) if antialiasing == 2 else (3, 1)
    height, width = ((side + 2 * padding - size) // stride + 1 for side, stride in zip(sides, strides, strict=True))
    return height, width


@dataclass(frozen=True)
class Convolutional(Kind):
    filters: int
    size: int
    strides: tuple[int, int]  # of rows, of columns
    padding: int  # pixels on every side, times the dilation
    groups: int
    norm: bool
    activation: str
    dilation: int = 1
    antialiasing: int = 0  # 1: then a 3 x 3 binomial filter with these strides; 2: the mean of 2 x 2; 0: neither
    binary: Literal["", "weights", "both"] = ""  # what only counts by its sign: nothing, weights, or the input too
    shared: int | None = None  # the layer whose parameters it has

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(flipped=0, sway=0, rotate=0, stretch=0, stretch_sway=0, coordconv=0, reverse=0)
        size, dilation = section.integer("size", 1, minimum=1), section.integer("dilation", 1, minimum=1)
        padding = size // 2 if section.flag("pad") else section.integer("padding", 0, minimum=0)
        if size > 1 and dilation > 1 and 2 * padding != size - 1:
            what = f"dilation={dilation} with size={size} and {padding} pixels of padding is not supported"
            raise section.error(what, key="dilation", fix="Set pad=1, and an odd size")
        xnor = section.flag("xnor")
        if section.has("share_index"):
            section.refuse(xnor=0, binary=0)
        return cls(
            filters=section.integer("filters", minimum=1),
            size=size,
            strides=read_strides(section),
            padding=padding,
            groups=1 if xnor else section.integer("groups", 1, minimum=1),
            norm=section.flag("batch_normalize") or section.flag("cbn"),
            activation=read_activation(section, "logistic"),
            dilation=dilation if size > 1 else 1,
            antialiasing=section.integer("antialiasing", 0, minimum=0),
            binary="both" if xnor else "weights" if section.flag("binary") else "",
            shared=_shared_index(section, index),
        )

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        c, h, w = inputs[0]
        if c % self.groups or self.filters % self.groups:
            what = f"groups is {self.groups}, which does not divide {c} input channels and {self.filters} filters"
            raise section.error(what, key="groups")
        strides = (1, 1) if self.antialiasing else self.strides
        sides = [(side + 2 * self.padding - self.size) // s + 1 for side, s in zip((h, w), strides, strict=True)]
        height, width = blurred(sides, self.antialiasing, self.strides) if self.antialiasing else sides
        return self.filters, height, width

    def floats(self, inputs: Sequence[Shape]) -> int:
        if self.shared is not None:
            return 0
        weights = inputs[0][0] // self.groups * self.filters * self.size**2
        return weights + (4 if self.norm else 1) * self.filters


def _shared_index(section: Section, index: int) -> int | None:
    """The layer that ``share_index`` names, relative where negative."""
    if not section.has("share_index"):
        return None
    named = section.integer("share_index")
    source = index + named if named < 0 else named
    if not 0 <= source < index:
        raise section.error(f"share_index names layer {named}, which is not before it", key="share_index")
    return source


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
    """Pixels into channels in the order of the first Darknet (see :func:`foveal.parts.layers.darknet.reorg`)."""

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
class Reorg3d(Kind):
    """Pixels into channels: those of each of the ``stride`` x ``stride`` places together; ``reverse``: back."""

    stride: int
    reverse: bool

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        return cls(section.integer("stride", 1, minimum=1), section.flag("reverse"))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        (c, h, w), s = inputs[0], self.stride
        if c % (s * s) if self.reverse else h % s or w % s:
            raise section.error(f"stride {s} does not divide a map of {c} x {h} x {w}", key="stride")
        return (c // (s * s), h * s, w * s) if self.reverse else (c * s * s, h // s, w // s)


@dataclass(frozen=True)
class BatchNorm(Kind):
    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        return cls()

    def floats(self, inputs: Sequence[Shape]) -> int:
        return 4 * inputs[0][0]


@dataclass(frozen=True)
class Activation(Kind):
    activation: str

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        return cls(read_activation(section, "linear"))


@dataclass(frozen=True)
class Dropout(Kind):
    probability: float

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        probability = section.number("probability", 0.5)
        if not 0 <= probability < 1:
            raise section.error(f"probability is {probability:g}, expected 0 to 1", key="probability")
        return cls(probability)


@dataclass(frozen=True)
class Softmax(Kind):
    temperature: float

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(groups=1, spatial=0)
        if section.has("tree"):
            raise section.error("a tree of classes is not supported", key="tree")
        temperature = section.number("temperature", 1)
        if temperature <= 0:
            raise section.error(f"temperature is {temperature:g}, expected more than 0", key="temperature")
        return cls(temperature)


@dataclass(frozen=True)
class LossOnly(Kind):
    """``[cost]`` and ``[contrastive]``: a loss of their own, which is not computed here."""

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
