"""Where the boxes of the second stage come from: an RPN, or proposals computed beforehand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..parts.priors.anchors import Anchors
from ..parts.selective_search import ProposalSource
from ..types import Boxes, Images, Predictions, Priors, Targets
from .detector import Outputs, merge_classes
from .one_stage import without_validity
from .task import BoxTask


# --------------------------------------------------------------------------------- where proposals come from
class Proposer(ABC):
    """Where the proposals of a region detector come from. Owns no weights: ``head`` is the detector's RPN head."""

    source: ProposalSource | None = None  # of proposals from outside

    @abstractmethod
    def outputs(
        self, head: nn.Module | None, features: list[Tensor], images: Images, strides: Sequence[int]
    ) -> Outputs:
        """What is known of the proposals before anything is decided."""

    @abstractmethod
    def losses(self, outputs: Outputs, targets: Targets, rng: torch.Generator | None) -> dict[str, Tensor]:
        """The losses of the proposals themselves."""

    @abstractmethod
    def __call__(self, outputs: Outputs, images: Images, *, training: bool) -> Boxes:
        """The proposals in network pixels, by falling score; no gradient flows through them."""


@dataclass(frozen=True)
class Counts:
    """How many proposals are kept."""

    before: int = 1000  # of each level, before suppression
    after: int = 1000  # of each image, after it


@dataclass(frozen=True)
class FromRPN(Proposer):
    """A region proposal network of the detector's own (Faster R-CNN)."""

    anchors: Anchors
    task: BoxTask
    train: Counts  # proposals kept in training
    test: Counts

    def outputs(
        self, head: nn.Module | None, features: list[Tensor], images: Images, strides: Sequence[int]
    ) -> Outputs:
        assert head is not None
        return Outputs(features, [head(features)], self.anchors(images, features, strides))

    def losses(self, outputs: Outputs, targets: Targets, rng: torch.Generator | None) -> dict[str, Tensor]:
        losses = self.task.losses(outputs.layers[-1], outputs.priors, merge_classes(targets), rng)
        return {f"rpn.{k}": v for k, v in losses.items()}

    def __call__(self, outputs: Outputs, images: Images, *, training: bool) -> Boxes:
        return self.counted(training).detect(detached(outputs.layers[-1]), without_validity(outputs.priors), images)

    def counted(self, training: bool) -> BoxTask:
        """The task with the proposal counts of training or test."""
        counts = self.train if training else self.test
        return self.task.with_counts(counts.before, counts.after)


@dataclass(frozen=True)
class ExternalProposals(Proposer):
    """The boxes that came with the images (Fast R-CNN)."""

    source: ProposalSource | None = None

    def outputs(
        self, head: nn.Module | None, features: list[Tensor], images: Images, strides: Sequence[int]
    ) -> Outputs:
        """Raises :class:`UsageError` for a batch without proposals."""
        boxes, valid = images.proposals, images.proposals_valid
        if boxes is None or valid is None:
            raise UsageError(
                "the detector takes its proposals from outside, and the batch has none",
                fix="Call detector.prepare(arrays), or add proposals with Images.with_proposals(boxes)",
            )
        return Outputs(features, [], Priors(boxes, (boxes.shape[1],), valid))

    def losses(self, outputs: Outputs, targets: Targets, rng: torch.Generator | None) -> dict[str, Tensor]:
        return {}

    def __call__(self, outputs: Outputs, images: Images, *, training: bool) -> Boxes:
        boxes, valid = outputs.priors.boxes, outputs.priors.valid
        assert valid is not None
        return Boxes(boxes, valid.to(boxes.dtype), torch.zeros_like(valid, dtype=torch.int64), valid)


EXTERNAL = ExternalProposals()


def detached(predictions: Predictions) -> Predictions:
    """Proposals are inputs to the second stage: no gradient flows through their coordinates."""
    return Predictions(predictions.logits.detach(), predictions.deltas.detach())
