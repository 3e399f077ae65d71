"""The last stage of a timm network as an RoI head."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import nn

from ...errors import UsageError
from ...weights.open import read_state
from ...weights.reading.entries import covers
from ...weights.state import load_state
from ..backbones.timm import Last, _network, frozen, plain_padding
from ..layers.norms import fuse_frozen
from .roi import Predictor, RoIHead, RoIHeadSpec


@dataclass(frozen=True)
class TimmTail(RoIHeadSpec):
    """The layers of a timm network after its map of stride 16, on every pooled map, then the average: as
    :class:`ResNetTail` for a ResNet. For networks that are a sequence of layers there (Inception-ResNet, ResNet)."""

    name: str  # the backbone's
    norm: Literal["frozen", "batch"] = "frozen"
    predictor: Predictor = field(default_factory=Predictor)

    def trunk(self, channels: int, size: tuple[int, int]) -> tuple[nn.Module, int]:
        """Raises ``UsageError`` where the network cannot be cut."""
        network = _network(self.name)
        infos = list(network.feature_info)
        layers = dict(network.named_children())
        before = [str(i["module"]) for i in infos if i["reduction"] == 16]
        last = str(infos[-1]["module"])
        if infos[-1]["reduction"] != 32 or not before or before[-1] not in layers or last not in layers:
            raise UsageError(f"{self.name} has no last stage to cut off", fix="Use RoIMLP(), or a neck=FPN()")
        names = list(layers)
        selected = names[names.index(before[-1]) + 1 : names.index(last) + 1]
        tail: nn.Module = Last(OrderedDict((name, layers[name]) for name in selected))
        plain_padding(tail)
        if self.norm == "frozen":
            frozen(tail)
        fuse_frozen(tail)
        return tail, int(infos[-1]["num_chs"])

    def load_pretrained(self, head: RoIHead, path: str | Path) -> None:
        state = read_state(path, covers(head.trunk.state_dict()), self.name)
        load_state(head.trunk, state, path=path, known=state.keys(), what=f"{self.name} (last stage)")
