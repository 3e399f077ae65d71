"""The layers of a Darknet cfg that read earlier layers: routes, shortcuts, and products. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

from .cfg import Section
from .layers import Kind, Shape, read_activation


def _indices(section: Section, key: str, index: int) -> tuple[int, ...]:
    """Layer indices as in Darknet: from 0, or relative to this layer where negative."""
    indices = tuple(index + k if k < 0 else k for k in section.integers(key))
    for k, source in zip(section.integers(key), indices, strict=True):
        if not 0 <= source < index:
            fix = f"Use 0 to {index - 1}, or -{index} to -1" if index else "Remove it: no layer precedes the first"
            raise section.error(f"{key} names layer {k}, which is not before it", key=key, fix=fix)
    return indices


def _one_index(section: Section, index: int) -> int:
    indices = _indices(section, "from", index)
    if len(indices) != 1:
        raise section.error(f"from names {len(indices)} layers, expected one", key="from")
    return indices[0]


@dataclass(frozen=True)
class Route(Kind):
    """The concatenated channels of earlier layers; with ``groups`` the part ``group`` of each."""

    layers: tuple[int, ...]
    groups: int
    group: int

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        groups, group = section.integer("groups", 1, minimum=1), section.integer("group_id", 0, minimum=0)
        if group >= groups:
            raise section.error(f"group_id is {group} of {groups} groups, which count from 0", key="group_id")
        return cls(_indices(section, "layers", index), groups, group)

    def sources(self, index: int) -> tuple[int, ...]:
        return self.layers

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        sizes = {s[1:] for s in inputs}
        if len(sizes) > 1:
            shown = ", ".join(f"{k}: {h} x {w}" for k, (_, h, w) in zip(self.layers, inputs, strict=True))
            fix = "Set input sides that are multiples of the largest stride (usually 32)"
            raise section.error(f"joins maps of different sizes ({shown})", key="layers", fix=fix)
        if any(c % self.groups for c, _, _ in inputs):
            raise section.error(f"groups is {self.groups}, which does not divide the channels", key="groups")
        return sum(c for c, _, _ in inputs) // self.groups, *inputs[0][1:]


@dataclass(frozen=True)
class Shortcut(Kind):
    """The sum of the layer before and earlier ones, over the channels they have in common, each with a weight or none.

    Of a map k times as large every k-th row and column is added; one k times smaller is added to those of the sum.
    ``weights``: one a layer, or one a layer and channel; ``normalization``: of the weights over the layers.
    """

    layers: tuple[int, ...]
    activation: str
    weights: Literal["", "layer", "channel"] = ""
    normalization: Literal["", "relu", "softmax"] = ""

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(alpha=1, beta=1)
        kinds = {"none": "", "per_feature": "layer", "per_layer": "layer", "per_channel": "channel"}
        norms = {"none": "", "relu": "relu", "avg_relu": "relu", "softmax": "softmax"}
        weights = _choice(section, "weights_type", kinds)
        normalization = _choice(section, "weights_normalization", norms) if weights else ""
        return cls(
            _indices(section, "from", index),
            read_activation(section, "linear"),
            cast(Literal["", "layer", "channel"], weights),
            cast(Literal["", "relu", "softmax"], normalization),
        )

    def sources(self, index: int) -> tuple[int, ...]:
        return index - 1, *self.layers

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        c, h, w = inputs[0]
        for c2, h2, w2 in inputs[1:]:
            larger = h2 % h == w2 % w == 0 and h2 // h == w2 // w
            smaller = h % h2 == w % w2 == 0 and h // h2 == w // w2
            if not larger and not smaller:
                fix = "Set input sides that are multiples of the largest stride (usually 32)"
                raise section.error(f"adds {c2} x {h2} x {w2} (from) to {c} x {h} x {w}", key="from", fix=fix)
        return inputs[0]

    def floats(self, inputs: Sequence[Shape]) -> int:
        return {"": 0, "layer": 1, "channel": inputs[0][0]}[self.weights] * len(inputs)


@dataclass(frozen=True)
class Product(Kind):
    """An earlier map times the layer before: value by value (``[sam]``), channel by channel (``[scale_channels]``), or
    pixel by pixel (``[scale_channels]`` with ``scale_wh=1``)."""

    layer: int
    by: Literal["value", "channel", "pixel"]
    activation: str

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        by: Literal["value", "channel", "pixel"] = "value"
        if section.kind == "scale_channels":
            by = "pixel" if section.flag("scale_wh") else "channel"
        return cls(_one_index(section, index), by, read_activation(section, "linear"))

    def sources(self, index: int) -> tuple[int, ...]:
        return index - 1, self.layer

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        factors, (c, h, w) = inputs
        expected = {"value": (c, h, w), "channel": (c, 1, 1), "pixel": (1, h, w)}[self.by]
        if factors != expected:
            shown = " x ".join(map(str, factors))
            what = f"multiplies {c} x {h} x {w} (from) by {shown}, expected {' x '.join(map(str, expected))}"
            raise section.error(what, key="from")
        return inputs[1]


def _choice(section: Section, key: str, values: dict[str, str]) -> str:
    name = section.text(key, "none")
    if name not in values:
        raise section.error(f"{key} is {name!r}", key=key, fix=f"Use one of {', '.join(values)}")
    return values[name]
