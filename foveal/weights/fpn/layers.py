"""What the key tables of Detectron2 and MMDetection share: the layers of a ResNet-FPN detector, in foveal's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...errors import FovealError
from ..open import StateDict

FPNKind = Literal["faster_rcnn", "mask_rcnn", "retinanet"]
LayerPairs = Iterator[tuple[str, str]]  # ours, theirs: names of layers, without ".weight"
_BLOCK = re.compile(r"(\d)\.(\d+)\.conv3\.weight$")


@dataclass(frozen=True)
class FPNLayout:
    """The layers that a state has."""

    kind: FPNKind
    blocks: tuple[int, ...]  # bottleneck blocks of the four stages
    convs: int = 4  # of each RetinaNet tower, or of the mask head

    @property
    def first(self) -> int:
        """The finest level of the pyramid."""
        return 3 if self.kind == "retinanet" else 2

    @property
    def levels(self) -> int:
        """The levels with a lateral connection."""
        return 6 - self.first


def blocks_of(state: Mapping[str, Tensor], stage: str, first: int) -> tuple[int, ...]:
    """The bottleneck blocks of the four stages, named ``stage`` and a number from ``first`` on, such as ``layer1``."""
    blocks = [0, 0, 0, 0]
    for key in state:
        match = _BLOCK.match(key[len(stage) :]) if key.startswith(stage) else None
        if match and 0 <= int(match[1]) - first < 4:
            number = int(match[1]) - first
            blocks[number] = max(blocks[number], int(match[2]) + 1)
    return tuple(blocks)


def convs_of(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many layers of the state match the pattern of a name."""
    return sum(re.fullmatch(pattern, key) is not None for key in state)


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str]) -> tuple[StateDict, list[str]]:
    """The tensors of the layers in ``names`` under their new names, and the names of all others."""
    new: StateDict = {}
    unknown: list[str] = []
    for key, value in state.items():
        layer, _, kind = key.rpartition(".")
        if layer in names:
            new[f"{names[layer]}.{kind}"] = value
        else:
            unknown.append(key)
    return new, unknown


def ours_renamed(
    state: Mapping[str, Tensor], kind: FPNKind, pairs: Callable[[FPNLayout], LayerPairs], tool: str
) -> StateDict:
    """A state of foveal's under the names of a tool, by its ``pairs``. Raises ``FovealError`` for other layers."""
    pattern = r"mask_head\.trunk\.\d+\.0\.weight" if kind == "mask_rcnn" else r"head\.class\w+\.conv\.\d+\.0\.weight"
    layout = FPNLayout(kind, blocks_of(state, "backbone.layer", 1), convs_of(state, pattern))
    new, unknown = renamed(state, dict(pairs(layout)))
    if unknown:
        raise FovealError(f"has layers that {tool}'s detectors lack ({', '.join(unknown[:3])})")
    return new
