"""Reads and writes Darknet's weights files, as the state of :class:`~foveal.parts.darknet.module.DarknetNetwork`.

A file is a header (three int32: major, minor, revision; then the number of images trained on, int64 since version 0.2,
int32 before) and then only float32, layer by layer. It does not name its network: the only check is the number of
floats, so that comes first. Source: ``load_weights_upto`` in Darknet's ``parser.c``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import FovealError
from ...files.atomic import atomic_file
from ...weights.open import StateDict, sniff
from . import layers as kinds
from .cfg_graph import CfgLayer, Net, read_net, with_outputs
from .notes import cfg_notes
from .routes import Shortcut

_VERSION = (0, 2, 0)  # what we write


@dataclass(frozen=True)
class WeightsHeader:
    """The first 16 or 20 bytes of a file."""

    major: int
    minor: int
    revision: int
    seen: int  # images trained on
    bytes: int  # its own length

    @property
    def transposed(self) -> bool:
        """Darknet's earliest files store connected layers as [in][out]."""
        return self.major > 1000 or self.minor > 1000


def read_weights_header(path: str | Path) -> WeightsHeader:
    """Raises :class:`FovealError` for a file that is not a Darknet weights file, with what it is instead."""
    path = Path(path)
    kind = sniff(path)
    ours = kind.startswith("a Darknet file")
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) >= 16:
        major, minor, revision = struct.unpack("<3i", head[:12])
        old = 1000 < max(major, minor) < 100_000 and min(major, minor, revision) >= 0 and kind == "of an unknown format"
        if ours or old:
            # as Darknet: the old, transposed files have the short counter too
            long = major * 10 + minor >= 2 and not old
            if not long or len(head) == 20:
                seen = struct.unpack("<q" if long else "<I", head[12 : 20 if long else 16])[0]
                return WeightsHeader(major, minor, revision, seen, 20 if long else 16)
    what = "cut off in its header" if ours else kind
    raise FovealError(
        f"is {what}, not Darknet weights", path=path, fix="Give the .weights file that belongs to the cfg"
    )


def is_darknet(path: str | Path) -> bool:
    """Whether a file begins like Darknet weights."""
    try:
        return Path(path).is_file() and read_weights_header(path).bytes > 0
    except FovealError:
        return False


def read_darknet(path: str | Path, net: Net, *, needed: int | None = None) -> tuple[WeightsHeader, StateDict]:
    """The header, and the state of :class:`DarknetNetwork` under its keys.

    The number of floats must be the cfg's. With ``needed`` the file may also end after any layer from that one on
    (``darknet53.conv.74`` and the like have only the first layers). Raises :class:`FovealError` with both counts.
    """
    header = read_weights_header(path)
    size = Path(path).stat().st_size - header.bytes
    layers = _stored_layers(path, net, size, needed)
    floats = np.fromfile(path, dtype="<f4", offset=header.bytes)
    state: StateDict = {}
    start = 0
    for layer in layers:
        for key, shape in entries(layer, net):
            stop = start + prod(shape)
            flat = torch.from_numpy(floats[start:stop])
            transposed = header.transposed and key.endswith("linear.weight")
            value = flat.view(shape[1], shape[0]).t().contiguous() if transposed else flat.view(shape)
            if key.endswith("running_var") and bool((value < 0).any()):
                what = f"layer {layer.index} [{layer.kind}] would have a negative variance"
                raise FovealError(what, path=path, fix="Give the cfg that belongs to this file; only the size fits")
            state[key] = value
            start = stop
    return header, state


def read_start(path: str | Path, text: str, cfg: str | Path | None = None) -> tuple[int | None, StateDict]:
    """The number of classes and the state of a file that a training run of the cfg ``text`` starts from.

    The file may be the cfg's (as in :func:`read_darknet`), of the same network for another number of classes, whose
    last layers then have another size here, or of the first layers alone (None). ``cfg``: the path, for errors.
    """
    net, size = read_net(text, cfg), Path(path).stat().st_size if Path(path).is_file() else 0
    size -= read_weights_header(path).bytes
    classes = net.heads[0].head.classes if net.heads and net.heads[0].head is not None else None
    if size == 4 * net.floats or (other := other_classes(text, size // 4)) is None or size % 4:
        _, state = read_darknet(path, net, needed=0)
        return (classes if size == 4 * net.floats else None), state
    _, state = read_darknet(path, read_net(with_outputs(text, other), cfg))
    return other, state


def other_classes(text: str, floats: int) -> int | None:
    """The number of classes for which the cfg ``text`` would need so many floats; None: for none, or for its own."""
    try:
        one, two = (read_net(with_outputs(text, classes)).floats for classes in (1, 2))
    except FovealError:
        return None
    classes, remainder = divmod(floats - one, two - one) if two > one else (0, 1)
    return classes + 1 if remainder == 0 and classes >= 0 and floats != read_net(text).floats else None


def write_darknet(path: str | Path, net: Net, state: Mapping[str, Tensor], *, seen: int = 0) -> None:
    """The inverse: a file of version 0.2.0, complete or absent. Raises :class:`FovealError`."""
    with atomic_file(Path(path)) as part, part.open("wb") as file:
        file.write(struct.pack("<3iq", *_VERSION, seen))
        for layer in net.layers:
            for key, _ in entries(layer, net):
                file.write(state[key].detach().float().cpu().contiguous().numpy().astype("<f4").tobytes())


def entries(layer: CfgLayer, net: Net) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Key and shape of every tensor of a layer, in the order of the file."""
    what, at, inputs = layer.what, f"layers.{layer.index}.", net.shape(layer.sources[0])
    if layer.floats == 0:
        return
    if isinstance(what, kinds.Convolutional):
        n = (what.filters,)
        if what.norm:
            yield from ((at + key, n) for key in ("1.bias", "1.weight", "1.running_mean", "1.running_var"))
        else:
            yield at + "0.bias", n
        yield at + "0.weight", (what.filters, inputs[0] // what.groups, what.size, what.size)
    elif isinstance(what, kinds.Connected):
        n = (what.outputs,)
        yield at + ("norm.bias" if what.norm else "linear.bias"), n
        yield at + "linear.weight", (what.outputs, prod(inputs))
        if what.norm:
            yield from ((at + key, n) for key in ("norm.weight", "norm.running_mean", "norm.running_var"))
    elif isinstance(what, kinds.BatchNorm):
        yield from ((at + key, inputs[:1]) for key in ("bias", "weight", "running_mean", "running_var"))
    elif isinstance(what, Shortcut):
        maps = len(layer.sources)
        yield at + "weight", (maps, layer.floats // maps)
    elif isinstance(what, kinds.Local):
        yield at + "bias", layer.shape
        yield at + "weight", (prod(layer.shape[1:]), what.filters, inputs[0] * what.size**2)


def _stored_layers(path: str | Path, net: Net, size: int, needed: int | None) -> tuple[CfgLayer, ...]:
    """The layers that a file with ``size`` bytes after its header has."""
    if size == 4 * net.floats:
        return net.layers
    ends, total = {}, 0
    for layer in net.layers:
        total += layer.floats
        ends[4 * total] = layer.index + 1
    if needed is not None and ends.get(size, 0) > needed:
        return net.layers[: ends[size]]
    if held := ends.get(size):
        what = f"has {size // 4:,} floats after its header, those of the first {held} of {len(net.layers)} layers"
        raise FovealError(
            f"{what} of the cfg{_named(net)}",
            path=path,
            fix="Give the whole network's file; a training run starts from this one",
        )
    remainder = f" and {size % 4} bytes" if size % 4 else ""
    cfg = _named(net)
    if not remainder and (classes := other_classes(net.text, size // 4)) is not None:
        raise FovealError(
            f"has {size // 4:,} floats after its header, the cfg{cfg} needs {net.floats:,}: it is of the same network "
            f"for {classes} {'class' if classes == 1 else 'classes'}",
            path=path,
            fix=f"Give the cfg with classes={classes}, and filters to match; to train, give the file as --weights",
        )
    fix = "Give the cfg that belongs to these weights"
    if size < 4 * net.floats:
        fix += ", or copy the file again if it was cut off"
    if notes := [note for note in cfg_notes(net.text) if "ignored" in note]:
        fix += f", or correct the cfg ({notes[0].rstrip('.')})"
    raise FovealError(
        f"has {size // 4:,} floats{remainder} after its header, the cfg{cfg} needs {net.floats:,}", path=path, fix=fix
    )


def _named(net: Net) -> str:
    return f" {net.path}" if net.path else ""
