"""The layers of a Darknet cfg that read earlier layers: ``[route]`` and ``[shortcut]``. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

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
    """The sum of the layer before and an earlier one."""

    layer: int
    activation: str

    @classmethod
    def read(cls, section: Section, index: int) -> Self:
        section.refuse(alpha=1, beta=1)
        if section.text("weights_type", "none") != "none":
            raise section.error("weights_type is not supported", key="weights_type")
        indices = _indices(section, "from", index)
        if len(indices) != 1:
            raise section.error(f"from names {len(indices)} layers, expected one", key="from")
        return cls(indices[0], read_activation(section, "linear"))

    def sources(self, index: int) -> tuple[int, ...]:
        return index - 1, self.layer

    def shape(self, inputs: Sequence[Shape], section: Section) -> Shape:
        if inputs[0] != inputs[1]:
            (c, h, w), (c2, h2, w2) = inputs
            raise section.error(f"adds {c2} x {h2} x {w2} (from) to {c} x {h} x {w}", key="from")
        return inputs[0]
