"""What every kind of backbone offers, whoever wrote the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ...errors import UsageError, nearest

LayerT = TypeVar("LayerT")


class BackboneSpec(ABC):
    """A network without its classifier, as a value. Subclasses are frozen dataclasses."""

    @abstractmethod
    def build(self, levels: Sequence[int] = (2, 3, 4, 5)) -> Any:
        """A module with random weights: pixels (B, 3, H, W) -> one map (B, c, H / stride, W / stride) a level.

        It declares ``channels`` and ``strides``, finest first. ``levels``: the wanted strides, as powers of two.
        """

    @abstractmethod
    def load_pretrained(self, backbone: nn.Module, path: str | Path | None = None) -> None:
        """Reads the weights file that the spec names (or ``path``), if any, into a module that it built."""

    weights: str | None

    @property
    def weights_file(self) -> str | None:
        """The file that :meth:`load_pretrained` reads, if any."""
        return self.weights


def returned(
    wanted: Sequence[str | int] | None,
    levels: Sequence[int],
    by_level: Mapping[int, LayerT],
    by_name: Mapping[str, LayerT],
    what: str,
) -> list[LayerT]:
    """The layers of the network ``what`` that a spec's ``returns`` names, or those of ``levels`` where it is None.

    Raises ``UsageError`` for a layer or level that is not there, for none at all and for a repeated one.
    """
    if wanted is None:
        found = [by_level[level] for level in levels if level in by_level]
        if not found:
            raise UsageError(f"{what} has no layer at stride {', '.join(str(2**v) for v in levels)}")
        return found
    found = []
    for item in wanted:
        places: Mapping[Any, LayerT] = by_level if isinstance(item, int) else by_name
        if item not in places:
            fix = nearest(str(item), by_name) or f"Name one of the levels {', '.join(map(str, by_level))}"
            raise UsageError(f"{what} has no layer {item!r}", fix=fix)
        found.append(places[item])
    if not found or len(set(found)) < len(found):
        raise UsageError(f"returns is {tuple(wanted)}", fix="Name at least one layer, and each once")
    return found
