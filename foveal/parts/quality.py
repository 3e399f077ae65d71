"""A second score beside the class scores: objectness or centre-ness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ..types import Match, Priors, Targets


@dataclass(frozen=True)
class Quality(ABC):
    """How good a box is, whatever its class. The concrete forms live with the detectors that brought them."""

    @abstractmethod
    def loss(
        self,
        quality: Tensor,
        outputs: tuple[Tensor, Tensor],
        priors: Priors,
        targets: Targets,
        match: Match,
        keep: Tensor,
    ) -> Tensor:
        """Scalar loss of the raw predictions (B, A); ``outputs`` are detached deltas and priors (B, A, 4)."""

    @abstractmethod
    def scores(self, scores: Tensor, quality: Tensor) -> Tensor:
        """Class scores (B, A, C) and raw quality (B, A) -> final scores (B, A, C)."""

    def row_weight(self, priors: Priors, boxes: Tensor, match: Match) -> Tensor | None:
        """A weight (B, A) for the box loss of each row, which its normaliser counts too; None: all weigh the same."""
        return None
