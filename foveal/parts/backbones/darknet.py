"""Darknet's ImageNet classifiers as backbones: Darknet-19, Darknet-53, Tiny Darknet, or any cfg.

Darknet's networks expect RGB in 0..1 without normalization, which ``input.mean`` and ``input.std`` follow unless set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ...errors import UsageError
from ...weights.state import load_state
from ..darknet.cfg_graph import CfgLayer, Net, cfg_text, read_net
from ..darknet.layers import Connected, Convolutional, Local, LossOnly, Softmax
from ..darknet.module import DarknetNetwork
from ..darknet.networks import NETWORKS, network_cfg
from ..darknet.pools import AvgPool
from ..darknet.weights import read_darknet
from ..layers.norms import NormKind, fuse_frozen
from ..resizing import UNIT_PIXELS, PixelStatistics
from .base import BackboneSpec, refuse_imagenet, returned

_LEVELS = (2, 3, 4, 5)
_ENDS = (Connected, Local, Softmax, LossOnly)


@dataclass(frozen=True)
class Darknet(BackboneSpec):
    """A network of Darknet without its classifier: one of Darknet's own by name, or that of a cfg.

    ``cfg`` holds the text of a cfg; given a path, it is read at once.
    """

    cfg: str  # darknet19, darknet53, yolov1, yolov2-tiny, ...; or a cfg's text; or the path of the file
    weights: str | None = None  # a .weights file of this cfg, read when training starts
    returns: tuple[str | int, ...] | None = None  # layers as "layers.14", or l for the last of stride 2^l; None: 2 to 5
    frozen_stages: int = 0  # stages of equal stride that do not learn
    norm: NormKind = "batch"  # what its batch norms become
    eps: float = 1e-5  # of the norms: Darknet's own on a GPU; 1e-6 on a CPU and in OpenCV

    def __post_init__(self) -> None:
        if self.cfg not in NETWORKS:
            object.__setattr__(self, "cfg", cfg_text(self.cfg))
        if self.frozen_stages < 0:
            raise UsageError(f"frozen_stages is {self.frozen_stages}", fix="Give a number of stages, 0 or more")
        if self.norm not in ("frozen", "batch", "group"):
            raise UsageError(f"norm {self.norm!r} is unknown", fix="Use 'frozen', 'batch' or 'group'")
        if self.norm == "group" and self.weights:
            raise UsageError("weights were trained with batch norm", fix="Use norm='frozen' or 'batch' with them")
        self.net()

    @property
    def pixels(self) -> PixelStatistics:
        return UNIT_PIXELS

    def net(self) -> Net:
        """Its layers. Raises :class:`FovealError` for a cfg that is not a network."""
        return read_net(network_cfg(self.cfg) if self.cfg in NETWORKS else self.cfg)

    def build(self, levels: Sequence[int] = _LEVELS) -> DarknetNetwork:
        """The module, with random weights (see :meth:`load_pretrained`).

        ``levels``: what a detector requests where ``returns`` is None; those the network does not have are omitted.
        Raises ``UsageError`` for an unknown layer or level.
        """
        net = self.net()
        trunk = _trunk(net)
        indices = sorted(self._returned(net, trunk, levels))
        body = DarknetNetwork(net, indices, norm=self.norm, eps=self.eps)
        stages = sorted({net.stride(layer.index) for layer in trunk})
        if self.frozen_stages > len(stages):
            raise UsageError(f"the cfg has {len(stages)} stages, frozen_stages is {self.frozen_stages}")
        for index, module in enumerate(body.layers):
            if net.stride(index) in stages[: self.frozen_stages]:
                module.requires_grad_(False)
        fuse_frozen(body)
        return body

    def load_pretrained(self, backbone: nn.Module, path: str | Path | None = None) -> None:
        """Loads ``weights`` (or ``path``) into ``backbone``; does nothing where neither is given.

        The file has the floats of the whole cfg, or of its first layers as far as they are used here
        (``darknet53.conv.74``). Raises ``FovealError`` for any other number.
        """
        file = path or self.weights
        refuse_imagenet(file, "Darknet's networks")
        if file:
            assert isinstance(backbone, DarknetNetwork)
            _, state = read_darknet(file, self.net(), needed=max(backbone.returns))
            load_state(backbone, state, path=file, known=state.keys(), what="the cfg's network")

    def _returned(self, net: Net, trunk: Sequence[CfgLayer], levels: Sequence[int]) -> list[int]:
        by_level = {net.stride(layer.index).bit_length() - 1: layer.index for layer in trunk}  # the last one wins
        by_name = {f"layers.{layer.index}": layer.index for layer in net.layers if layer.head is None}
        return returned(self.returns, levels, by_level, by_name, "the cfg")


def _trunk(net: Net) -> list[CfgLayer]:
    """The layers before the classifier: up to the pooling, without the plain convolution that scores the classes.

    A pooling that more maps follow is a part of the network (squeeze-and-excitation), and its output no map.
    """
    maps = [layer.index for layer in net.layers if layer.shape[1:] != (1, 1)]
    end = next(
        (
            layer.index
            for layer in net.layers
            if layer.head
            or isinstance(layer.what, _ENDS)
            or (isinstance(layer.what, AvgPool) and layer.index > max(maps, default=-1))
        ),
        len(net.layers),
    )
    trunk = [net.layers[k] for k in maps if k < end]
    while trunk and isinstance(last := trunk[-1].what, Convolutional) and not last.norm and last.activation == "linear":
        trunk.pop()
    if not trunk:
        raise UsageError("the cfg has no layer before its classifier")
    return trunk
