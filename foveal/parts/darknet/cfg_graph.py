"""A Darknet cfg as a network graph: the input's size and the layers in order, with shapes and floats. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ...errors import FovealError, nearest
from . import heads, layers, pools
from . import routes as joins
from .cfg import Section, read_sections
from .layers import Kind, Shape

KINDS: dict[str, type[Kind]] = {
    "convolutional": layers.Convolutional,
    "connected": layers.Connected,
    "local": layers.Local,
    "maxpool": pools.MaxPool,
    "avgpool": pools.AvgPool,
    "local_avgpool": pools.LocalAvgPool,
    "route": joins.Route,
    "shortcut": joins.Shortcut,
    "sam": joins.Product,
    "scale_channels": joins.Product,
    "upsample": layers.Upsample,
    "reorg": layers.Reorg,
    "reorg3d": layers.Reorg3d,
    "batchnorm": layers.BatchNorm,
    "activation": layers.Activation,
    "dropout": layers.Dropout,
    "softmax": layers.Softmax,
    "cost": layers.LossOnly,
    "contrastive": layers.LossOnly,
    "crop": layers.Crop,
    "region": heads.Region,
    "yolo": heads.Yolo,
    "gaussian_yolo": heads.GaussianYolo,
    "detection": heads.Detection,
}
_SHORT = {
    "conv": "convolutional",
    "conn": "connected",
    "max": "maxpool",
    "avg": "avgpool",
    "soft": "softmax",
    "local_avg": "local_avgpool",
}
_RECURRENT = ("rnn", "crnn", "gru", "lstm", "conv_lstm", "history")
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
    letter_box: bool | None = None  # whether images keep their aspect ratio; None: not stated
    text: str = ""  # of the cfg

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
    for section in sections:
        if section.kind in _RECURRENT:
            what = "a recurrent layer, whose state goes from one input to the next, is not supported"
            raise section.error(what, fix="Use a network that sees each image by itself")
    width, height = net.integer("width", minimum=1), net.integer("height", minimum=1)
    height, width = size or (height, width)
    channels = net.integer("channels", 3)
    if channels != 3:
        raise net.error(f"channels is {channels}; images are RGB here", key="channels", fix="Set channels=3")
    graph: list[CfgLayer] = []
    for section in sections:
        graph.append(_layer(section, graph, (channels, height, width)))
    _check_new_coords(graph)
    letter_box = net.flag("letter_box") if net.has("letter_box") else None
    return Net(height, width, tuple(graph), path, letter_box, text)


def layer_kind(name: str) -> str:
    """The full name of a section: ``convolutional`` for ``conv``."""
    return _SHORT.get(name, name)


def _layer(section: Section, before: list[CfgLayer], image: Shape) -> CfgLayer:
    index, kind = len(before), layer_kind(section.kind)
    if kind not in KINDS:
        fix = f"{nearest(kind, KINDS)} Use one of {', '.join(sorted(KINDS))}".strip()
        if kind in ("net", "network"):
            fix = "Remove it, or the layers before it: a cfg has one [net], at its beginning"
        raise section.error(f"layer {kind!r} is not known", fix=fix)
    section.refuse(dontload=0, dontloadscales=0)
    what = KINDS[kind].read(section, index)
    sources = what.sources(index)
    for k in sources:
        if k >= 0 and before[k].head is not None:
            end = before[k]
            raise section.error(f"reads layer {k}, [{end.kind}] of line {end.section.line}, which ends a branch")
    inputs = [image if k < 0 else before[k].shape for k in sources]
    shape = what.shape(inputs, section)
    if isinstance(what, layers.Convolutional) and what.shared is not None:
        what = replace(what, shared=_shared(what, inputs[0][0], section, before))
    if min(shape) < 1:
        c, h, w = inputs[0]
        raise section.error(f"leaves nothing of a map of {c} x {h} x {w}", fix="Give [net] a larger width and height")
    return CfgLayer(index, kind, what, section, sources, shape, what.floats(inputs))


def _shared(what: layers.Convolutional, channels: int, section: Section, before: Sequence[CfgLayer]) -> int:
    """The layer whose parameters a convolution with ``share_index`` has: one without ``share_index``."""
    assert what.shared is not None
    other = before[what.shared]
    theirs = other.what
    if not isinstance(theirs, layers.Convolutional):
        raise section.error(f"share_index names layer {what.shared}, a [{other.kind}]", key="share_index")
    ours = (what.filters, what.size, what.groups, what.norm, what.binary, channels)
    their_channels = before[other.sources[0]].shape[0] if other.sources[0] >= 0 else 3
    if ours != (theirs.filters, theirs.size, theirs.groups, theirs.norm, theirs.binary, their_channels):
        line = other.section.line
        raise section.error(f"differs from the convolution of line {line}, whose parameters it has", key="share_index")
    return what.shared if theirs.shared is None else theirs.shared


def _check_new_coords(graph: Sequence[CfgLayer]) -> None:
    """``new_coords=1`` reads logistic values, of a convolution that no other layer reads."""
    for layer in graph:
        if not isinstance(layer.what, heads.Yolo) or not layer.what.new_coords:
            continue
        last = graph[max(0, producer(graph, layer.sources[0]))]
        if not isinstance(last.what, layers.Convolutional) or last.what.activation != "logistic":
            what = (
                f"new_coords=1 needs a convolution with activation=logistic before it, line {last.section.line} is none"
            )
            fix = "Set activation=logistic there, or new_coords=0 here"
            raise layer.section.error(what, key="new_coords", fix=fix)
        for other in graph:
            passes_on = isinstance(other.what, joins.Route) and producer(graph, other.index) == last.index
            if last.index in other.sources and other.head is None and not passes_on:
                what = f"reads layer {last.index} of line {last.section.line}, which [yolo] with new_coords=1 reads"
                raise other.section.error(what, fix="Read an earlier layer")


def producer(graph: Sequence[CfgLayer], index: int) -> int:
    """The layer that computes the output of layer ``index``, which a route of one layer passes on; -1: the image."""
    while (
        index >= 0 and isinstance(what := graph[index].what, joins.Route) and len(what.layers) == 1 and what.groups == 1
    ):
        index = what.layers[0]
    return index


def with_outputs(text: str, logits: int) -> str:
    """The same cfg for detection layers of ``logits`` classes: their ``classes``, and the width of the layers before.

    Raises :class:`FovealError` with the line of a layer before them whose width cannot be set.
    """
    net, lines = read_net(text), text.splitlines()
    for head in net.heads:
        what, last = head.head, net.layers[producer(net.layers, head.sources[0])]
        assert what is not None
        if what.classes == logits:
            continue
        key = {"convolutional": "filters", "connected": "output"}.get(last.kind)
        if key is None:
            raise last.section.error(f"precedes [{head.kind}] and cannot be changed to {logits} classes")
        outputs = what.boxes * ((what.values if isinstance(what, heads.Yolo) else 5) + logits)
        if isinstance(what, heads.Detection):
            outputs = what.side**2 * (5 * what.boxes + logits)
        for section, name, value in ((head.section, "classes", logits), (last.section, key, outputs)):
            lines[section.values[name][1] - 1] = f"{name}={value}"
        if "counters_per_class" in head.section.values:  # Darknet refuses another number of them
            line = head.section.values["counters_per_class"][1] - 1
            lines[line] = f"# {lines[line].strip()}"
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
