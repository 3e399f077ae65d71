"""The role of a quality: a second score of a prior beside its class scores, such as objectness or centerness."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...types import Match, Priors, Targets


@dataclass(frozen=True)
class Quality(ABC):
    """How good a box is, whatever its class: what it learns, and how it changes the class scores."""

    needs_boxes: ClassVar[bool] = False  # whether ``loss`` needs the decoded boxes

    @abstractmethod
    def loss(
        self,
        quality: Tensor,
        boxes: Tensor | None,
        priors: Priors,
        targets: Targets,
        match: Match,
        sampled: Tensor,
    ) -> Tensor:
        """The scalar loss of the raw outputs ``quality`` (B, A), normalized and weighted.

        ``boxes`` (B, A, 4) are the decoded boxes, detached; ``sampled`` (B, A) float, 0 or 1: which priors count.
        """

    @abstractmethod
    def scores(self, scores: Tensor, quality: Tensor) -> Tensor:
        """Class scores (B, A, C) and raw quality (B, A) -> final scores (B, A, C)."""

    def prior_weight(self, priors: Priors, boxes: Tensor, match: Match) -> Tensor | None:
        """The weight (B, A) of each prior in the box loss and in its normalizer, given the boxes (B, A, 4) of the
        objects they are assigned to; None: 1."""
        return None
