"""The layers of a Darknet cfg: what each needs, the shape it makes, the floats it owns in a weights file. No torch.

One frozen dataclass a kind of layer. ``read`` takes the values from a section and refuses what cannot be; ``shape`` and
``floats`` follow from the input's shape (channels, height, width). Source: ``parser.c`` and the layers of Darknet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

from .darknet_cfg import Section

Shape = tuple[int, int, int]  # channels, height, width
ACTIVATIONS = ("linear", "leaky", "relu", "relu6", "logistic", "mish", "swish", "tanh", "elu", "selu")


@dataclass(frozen=True)
class Kind(ABC):
    """What one section says."""

    @classmethod
    @abstractmethod
    def read(cls, section: Section, index: int) -> Self:
        """``index``: of the layer, which relative places count from."""

    def sources(self, index: int) -> tuple[int, ...]:
        """The layers it reads; -1 is the picture."""
        return (index - 1,)

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        """Of its output; raises for inputs that do not fit."""
        return inputs[0]

    def floats(self, inputs: Sequence[Shape]) -> int:
        """How many numbers of a weights file are its own."""
        return 0


def _activation(section: Section, default: str) -> str:
    name = section.text("activation", default)
    if name not in ACTIVATIONS:
        fix = f"Known: {', '.join(ACTIVATIONS)}"
        raise section.error(f"activation {name!r} is not known", key="activation", fix=fix)
    return name


def _places(section: Section, key: str, index: int) -> tuple[int, ...]:
    """Layers as Darknet names them: from 0 on, or back from this one where negative."""
    found = tuple(index + k if k < 0 else k for k in section.integers(key))
    for k, place in zip(section.integers(key), found, strict=True):
        if not 0 <= place < index:
            fix = f"It is layer {index}: 0 to {index - 1}, or -{index} to -1" if index else "It is the first layer"
            raise section.error(f"{key} names layer {k}, which is not before it", key=key, fix=fix)
    return found


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
        size, stride = section.integer("size", 1, least=1), section.integer("stride", 1, least=1)
        section.refuse(stride_x=stride, stride_y=stride)
        padding = size // 2 if section.flag("pad") else section.integer("padding", 0, least=0)
        return cls(
            filters=section.integer("filters", least=1),
            size=size,
            stride=stride,
            padding=padding,
            groups=section.integer("groups", 1, least=1),
            norm=section.flag("batch_normalize"),
            activation=_activation(section, "logistic"),
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
        outputs, norm = section.integer("output", least=1), section.flag("batch_normalize")
        return cls(outputs, norm, _activation(section, "logistic"))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        return self.outputs, 1, 1

    def floats(self, inputs: Sequence[Shape]) -> int:
        return self.outputs * (prod(inputs[0]) + (4 if self.norm else 1))


@dataclass(frozen=True)
class Local(Kind):
    """A convolution with weights of its own at every place."""

    filters: int
    size: int
    stride: int
    pad: bool  # by one pixel, whatever the size
    activation: str

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        size, pad = section.integer("size", least=1), section.flag("pad")
        if pad and size != 3:
            raise section.error(f"pad=1 with size={size} is not known here, only size=3", key="size")
        filters, stride = section.integer("filters", least=1), section.integer("stride", 1, least=1)
        return cls(filters, size, stride, pad, _activation(section, "logistic"))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        height, width = ((side + 2 * self.pad - self.size) // self.stride + 1 for side in inputs[0][1:])
        return self.filters, height, width

    def floats(self, inputs: Sequence[Shape]) -> int:
        c, h, w = inputs[0]
        places = prod((side + 2 * self.pad - self.size) // self.stride + 1 for side in (h, w))
        return places * self.filters * (c * self.size**2 + 1)


@dataclass(frozen=True)
class MaxPool(Kind):
    size: int
    stride: int
    padding: int  # pixels in all; the smaller half lies left and above

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(maxpool_depth=0, antialiasing=0, out_channels=1)
        stride = section.integer("stride", 1, least=1)
        section.refuse(stride_x=stride, stride_y=stride)
        size = section.integer("size", stride, least=1)
        padding = section.integer("padding", size - 1, least=0)
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
class Route(Kind):
    """Channels of earlier layers, one after another; with ``groups`` the part ``group`` of each."""

    layers: tuple[int, ...]
    groups: int
    group: int

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        groups, group = section.integer("groups", 1, least=1), section.integer("group_id", 0, least=0)
        if group >= groups:
            raise section.error(f"group_id is {group} of {groups} groups, which count from 0", key="group_id")
        return cls(_places(section, "layers", index), groups, group)

    def sources(self, index: int) -> tuple[int, ...]:
        return self.layers

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        sizes = {s[1:] for s in inputs}
        if len(sizes) > 1:
            shown = ", ".join(f"{k}: {h} x {w}" for k, (_, h, w) in zip(self.layers, inputs, strict=True))
            fix = "Input sides that are multiples of the largest stride (32 as a rule) keep them equal"
            raise section.error(f"joins maps of different sizes ({shown})", key="layers", fix=fix)
        if any(c % self.groups for c, _, _ in inputs):
            raise section.error(f"groups is {self.groups}, which does not divide the channels", key="groups")
        return sum(c for c, _, _ in inputs) // self.groups, *inputs[0][1:]


@dataclass(frozen=True)
class Shortcut(Kind):
    """The sum of the layer before and an earlier one."""

    layer: int
    activation: str

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(alpha=1, beta=1)
        if section.text("weights_type", "none") != "none":
            raise section.error("weights_type is not known here", key="weights_type")
        places = _places(section, "from", index)
        if len(places) != 1:
            raise section.error(f"from names {len(places)} layers, expected one", key="from")
        return cls(places[0], _activation(section, "linear"))

    def sources(self, index: int) -> tuple[int, ...]:
        return index - 1, self.layer

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        if inputs[0] != inputs[1]:
            (c, h, w), (c2, h2, w2) = inputs
            raise section.error(f"adds {c2} x {h2} x {w2} (from) to {c} x {h} x {w}", key="from")
        return inputs[0]


@dataclass(frozen=True)
class Upsample(Kind):
    """Every pixel repeated ``stride`` times both ways, times ``scale``."""

    stride: int
    scale: float

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        return cls(section.integer("stride", 2, least=1), section.number("scale", 1))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        c, h, w = inputs[0]
        return c, h * self.stride, w * self.stride


@dataclass(frozen=True)
class Reorg(Kind):
    """Pixels into channels, in Darknet's own order (see ``reorg`` in ``parts/yolo.py``)."""

    stride: int

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(reverse=0, flatten=0, extra=0)
        return cls(section.integer("stride", 1, least=1))

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
            raise section.error("a tree of classes is not known here", key="tree")
        return cls()


@dataclass(frozen=True)
class Cost(Kind):
    """What a classifier is trained by; nothing is computed."""

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        return cls()


@dataclass(frozen=True)
class Crop(Kind):
    """The middle of the picture; values 0..1 become -1..1 unless ``noadjust``."""

    height: int
    width: int
    adjust: bool

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        height, width = section.integer("crop_height", least=1), section.integer("crop_width", least=1)
        return cls(height, width, not section.flag("noadjust"))

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        c, h, w = inputs[0]
        if self.height > h or self.width > w:
            raise section.error(f"crops {self.height} x {self.width} from {h} x {w}")
        return c, self.height, self.width
