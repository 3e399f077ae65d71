"""A second score beside the class scores: objectness or center-ness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...types import Match, Priors, Targets


@dataclass(frozen=True)
class Quality(ABC):
    """How good a box is, whatever its class. The concrete forms live with the detectors that brought them."""

    needs_boxes: ClassVar[bool] = False  # whether ``loss`` looks at the decoded boxes

    @abstractmethod
    def loss(
        self,
        quality: Tensor,
        boxes: Tensor | None,
        priors: Priors,
        targets: Targets,
        match: Match,
        keep: Tensor,
    ) -> Tensor:
        """Scalar loss of the raw predictions (B, A); ``boxes`` (B, A, 4) are the decoded ones, detached."""

    @abstractmethod
    def scores(self, scores: Tensor, quality: Tensor) -> Tensor:
        """Class scores (B, A, C) and raw quality (B, A) -> final scores (B, A, C)."""

    def row_weight(self, priors: Priors, boxes: Tensor, match: Match) -> Tensor | None:
        """A weight (B, A) for the box loss of each row, which its normalizer counts too; None: all weigh the same."""
        return None
