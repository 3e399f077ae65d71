"""The role of a backbone: a network without its classifier that returns feature maps."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from torch import Tensor, nn

from ...errors import UsageError, nearest
from ..resizing import IMAGENET_PIXELS, PixelStatistics

LayerT = TypeVar("LayerT")


class BackboneSpec(ABC):
    """A network without its classifier, as a value. Subclasses are frozen dataclasses."""

    @abstractmethod
    def build(self, levels: Sequence[int] = (2, 3, 4, 5)) -> Any:
        """A module with random weights: pixels (B, 3, H, W) -> one map (B, c, H / stride, W / stride) a level.

        It declares ``channels`` and ``strides``, finest first. ``levels``: the requested strides, as powers of two.
        """

    @abstractmethod
    def load_pretrained(self, backbone: nn.Module, path: str | Path | None = None) -> None:
        """Loads the weights file that the spec names (or ``path``), if any, into a module that it built."""

    weights: str | None  # a file, the name of a published one, or "imagenet" (Torchvision, Timm); None: random weights
    eps: float | None = None  # of the norms; None: the network's own

    @property
    def weights_file(self) -> str | None:
        """The file that :meth:`load_pretrained` reads, if any."""
        return self.weights

    def with_weights(self, weights: str) -> Self:
        """The same backbone starting from another file. Raises ``UsageError`` where it has no pretrained form."""
        known: Any = self  # every subclass is a dataclass
        return dataclasses.replace(known, weights=weights)  # type: ignore[no-any-return]

    @property
    def pixels(self) -> PixelStatistics:
        """(mean, std) of the pixels that its pretrained weights expect, RGB on the scale 0..1."""
        return IMAGENET_PIXELS

    @property
    def is_vgg(self) -> bool:
        """Whether its weights file ends in VGG's fc6 and fc7, which SSD turns into convolutions."""
        return False

    def package_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of a module that it built, under the keys of the package that the network comes from."""
        return dict(state)


def refuse_imagenet(weights: str | Path | None, what: str) -> None:
    """Raises ``UsageError`` for the word ``imagenet`` where no ImageNet weights are known by it."""
    from ...weights.imagenet.packages import IMAGENET

    if str(weights) == IMAGENET:
        fix = 'Give the path of a file, or use Timm or Torchvision, for which weights="imagenet" stands for theirs'
        raise UsageError(f"no ImageNet weights of {what} are known by a name", where="backbone.weights", fix=fix)


def returned(
    requested: Sequence[str | int] | None,
    levels: Sequence[int],
    by_level: Mapping[int, LayerT],
    by_name: Mapping[str, LayerT],
    what: str,
) -> list[LayerT]:
    """The layers of the network ``what`` that a spec's ``returns`` names, or those of ``levels`` where it is None.

    Raises ``UsageError`` for an unknown layer or level, for none at all and for a repeated one.
    """
    if requested is None:
        layers = [by_level[level] for level in levels if level in by_level]
        if not layers:
            raise UsageError(f"{what} has no layer at stride {', '.join(str(2**v) for v in levels)}")
        return layers
    layers = []
    for item in requested:
        known: Mapping[Any, LayerT] = by_level if isinstance(item, int) else by_name
        if item not in known:
            fix = nearest(str(item), by_name) or f"Choose one of the levels {', '.join(map(str, by_level))}"
            raise UsageError(f"{what} has no layer {item!r}", fix=fix)
        layers.append(known[item])
    if not layers or len(set(layers)) < len(layers):
        raise UsageError(f"returns is {tuple(requested)}", fix="Name at least one layer, and each once")
    return layers
