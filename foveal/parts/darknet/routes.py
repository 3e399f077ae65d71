"""The layers of a Darknet cfg that read earlier ones: ``[route]`` and ``[shortcut]``. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from .cfg import Section
from .layers import Kind, Shape, read_activation


def _places(section: Section, key: str, index: int) -> tuple[int, ...]:
    """Layers as Darknet names them: from 0 on, or back from this one where negative."""
    found = tuple(index + k if k < 0 else k for k in section.integers(key))
    for k, place in zip(section.integers(key), found, strict=True):
        if not 0 <= place < index:
            fix = (
                f"Give a layer from 0 to {index - 1}, or -{index} to -1"
                if index
                else "Remove it, for it is the first layer"
            )
            raise section.error(f"{key} names layer {k}, which is not before it", key=key, fix=fix)
    return found


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
            fix = "Use input sides that are multiples of the largest stride, usually 32"
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
        return cls(places[0], read_activation(section, "linear"))

    def sources(self, index: int) -> tuple[int, ...]:
        return index - 1, self.layer

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        if inputs[0] != inputs[1]:
            (c, h, w), (c2, h2, w2) = inputs
            raise section.error(f"adds {c2} x {h2} x {w2} (from) to {c} x {h} x {w}", key="from")
        return inputs[0]
