"""A Darknet cfg as a network graph: the input's size and the layers in order, with shapes and floats. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...errors import FovealError
from . import heads, layers
from . import routes as joins
from .cfg import Section, read_sections
from .layers import Kind, Shape

KINDS: dict[str, type[Kind]] = {
    "convolutional": layers.Convolutional,
    "connected": layers.Connected,
    "local": layers.Local,
    "maxpool": layers.MaxPool,
    "avgpool": layers.AvgPool,
    "route": joins.Route,
    "shortcut": joins.Shortcut,
    "upsample": layers.Upsample,
    "reorg": layers.Reorg,
    "dropout": layers.Dropout,
    "softmax": layers.Softmax,
    "cost": layers.Cost,
    "crop": layers.Crop,
    "region": heads.Region,
    "yolo": heads.Yolo,
    "detection": heads.Detection,
}
_SHORT = {"conv": "convolutional", "conn": "connected", "max": "maxpool", "avg": "avgpool", "soft": "softmax"}
_HEADS = (heads.Region, heads.Yolo, heads.Detection)


@dataclass(frozen=True)
class CfgLayer:
    """One layer of the graph."""

    index: int  # from 0, without [net]: as routes count
    kind: str
    what: Kind
    section: Section
    sources: tuple[int, ...]  # the layers it reads; -1: the image
    shape: Shape  # of its output
    floats: int  # the number of its parameters in a weights file

    @property
    def head(self) -> heads.Head | None:
        return self.what if isinstance(self.what, _HEADS) else None


@dataclass(frozen=True)
class Net:
    """The network of a valid cfg."""

    height: int
    width: int
    layers: tuple[CfgLayer, ...]
    path: str | Path | None = None

    @cached_property
    def floats(self) -> int:
        """How many float32 a weights file has after its header."""
        return sum(layer.floats for layer in self.layers)

    @cached_property
    def heads(self) -> tuple[CfgLayer, ...]:
        """The layers that a detector ends with, in order."""
        return tuple(layer for layer in self.layers if layer.head is not None)

    def stride(self, index: int) -> int:
        """Pixels of the image from one cell of a layer's map to the next, as a power of 2."""
        return 1 << max(0, round(math.log2(self.width / self.layers[index].shape[2])))

    def shape(self, index: int) -> Shape:
        return (3, self.height, self.width) if index < 0 else self.layers[index].shape


def read_net(text: str, path: str | Path | None = None, *, size: tuple[int, int] | None = None) -> Net:
    """The network that a cfg's text describes, for images of its own size or of ``size`` (height, width).

    Raises :class:`FovealError` with line, value and what was expected.
    """
    net, sections = read_sections(text, path)
    width, height = net.integer("width", minimum=1), net.integer("height", minimum=1)
    height, width = size or (height, width)
    channels = net.integer("channels", 3)
    if channels != 3:
        raise net.error(f"channels is {channels}; images are RGB here", key="channels", fix="Set channels=3")
    graph: list[CfgLayer] = []
    for section in sections:
        graph.append(_layer(section, graph, (channels, height, width)))
    return Net(height, width, tuple(graph), path)


def _layer(section: Section, before: list[CfgLayer], image: Shape) -> CfgLayer:
    index, kind = len(before), _SHORT.get(section.kind, section.kind)
    if kind not in KINDS:
        raise section.error(f"layer {kind!r} is not known", fix=f"Use one of {', '.join(sorted(KINDS))}")
    what = KINDS[kind].read(section, index)
    sources = what.sources(index)
    for k in sources:
        if k >= 0 and before[k].head is not None:
            end = before[k]
            raise section.error(f"reads layer {k}, [{end.kind}] of line {end.section.line}, which ends a branch")
    inputs = [image if k < 0 else before[k].shape for k in sources]
    shape = what.shape(inputs, section)
    if min(shape) < 1:
        c, h, w = inputs[0]
        raise section.error(f"leaves nothing of a map of {c} x {h} x {w}", fix="Give [net] a larger width and height")
    return CfgLayer(index, kind, what, section, sources, shape, what.floats(inputs))


def with_outputs(text: str, logits: int) -> str:
    """The same cfg for detection layers of ``logits`` classes: their ``classes``, and the width of the layers before.

    Raises :class:`FovealError` with the line of a layer before them whose width cannot be set.
    """
    net, lines = read_net(text), text.splitlines()
    for head in net.heads:
        what, last = head.head, net.layers[head.sources[0]]
        assert what is not None
        if what.classes == logits:
            continue
        key = {"convolutional": "filters", "connected": "output"}.get(last.kind)
        if key is None:
            raise last.section.error(f"precedes [{head.kind}] and cannot be changed to {logits} classes")
        outputs = what.boxes * (5 + logits)
        if isinstance(what, heads.Detection):
            outputs = what.side**2 * (5 * what.boxes + logits)
        for section, name, value in ((head.section, "classes", logits), (last.section, key, outputs)):
            lines[section.values[name][1] - 1] = f"{name}={value}"
    return "\n".join(lines) + "\n"


def with_geometry(text: str, size: tuple[int, int], shapes: Mapping[int, heads.Pairs]) -> str:
    """The same cfg for images of ``size`` (height, width), with other anchors.

    ``shapes``: by the index of a ``[region]`` or ``[yolo]`` layer the (width, height) of its anchors, in the order of
    its mask. Every ``[yolo]`` layer lists the anchors of all of them, so each gets those of the others too.
    """
    section, _ = read_sections(text)
    net, lines = read_net(text), text.splitlines()
    every: dict[int, tuple[float, float]] = {}
    for layer in net.heads:
        if isinstance(layer.head, heads.Yolo) and layer.index in shapes:
            every |= zip(layer.head.mask, shapes[layer.index], strict=True)
    for layer in net.heads:
        what = layer.head
        if isinstance(what, heads.Detection) or what is None or layer.index not in shapes:
            continue
        mask = what.mask if isinstance(what, heads.Yolo) else range(what.boxes)
        known = {**every, **dict(zip(mask, shapes[layer.index], strict=True))}
        anchors = tuple(known.get(k, old) for k, old in enumerate(what.anchors))
        if anchors != what.anchors:
            shown = ", ".join(f"{_number(w)},{_number(h)}" for w, h in anchors)
            lines[layer.section.values["anchors"][1] - 1] = f"anchors={shown}"
    for name, old, new in (("height", net.height, size[0]), ("width", net.width, size[1])):
        if old != new:
            lines[section.values[name][1] - 1] = f"{name}={new}"
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def cfg_text(cfg: str) -> str:
    """A cfg's text unchanged; for the path of a file (one line), the text of the file.

    So a spec may be given a path and stores the text. Raises :class:`FovealError` for a file that is not a cfg.
    """
    if "\n" in cfg:
        return cfg
    from .cfg import read_cfg_text

    if not cfg.strip():
        raise FovealError("no cfg is given", fix="Give the path of a Darknet cfg, or its text")
    return read_cfg_text(cfg)
