"""What every kind of backbone offers, whoever wrote the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn


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

    @property
    @abstractmethod
    def weights_file(self) -> str | None:
        """The file that :meth:`load_pretrained` reads, if any."""
