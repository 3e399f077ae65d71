"""The proposals of the second stage: from an RPN, or external ones that come with the images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError
from ..parts.heads.dense import DenseHead
from ..parts.priors.anchors import Anchors
from ..parts.selective_search import ProposalSource
from ..types import Boxes, Images, Predictions, Priors, Targets
from .task import BoxTask, Outputs, merge_classes, without_validity


class Proposer(ABC):
    """The source of a two-stage detector's proposals. Owns no weights: ``head`` is the detector's RPN head."""

    source: ProposalSource | None = None  # of external proposals

    @abstractmethod
    def outputs(
        self, head: DenseHead | None, features: list[Tensor], images: Images, strides: Sequence[int]
    ) -> Outputs:
        """The features, and the RPN's predictions at its anchors, or the external proposals as priors."""

    @abstractmethod
    def losses(self, outputs: Outputs, targets: Targets, rng: torch.Generator | None) -> dict[str, Tensor]:
        """The losses of the RPN: ``rpn.cls`` and ``rpn.box``; none of external proposals."""

    @abstractmethod
    def __call__(self, outputs: Outputs, images: Images, *, training: bool) -> Boxes:
        """The proposals in network pixels, by descending score; no gradient flows through them."""


@dataclass(frozen=True)
class Counts:
    """Numbers of proposals."""

    before: int = 1000  # of each level, before NMS
    after: int = 1000  # of each image, after NMS


@dataclass(frozen=True)
class FromRPN(Proposer):
    """The detector's own region proposal network (Faster R-CNN)."""

    anchors: Anchors
    task: BoxTask
    train: Counts  # proposals in training
    test: Counts  # and in inference

    def outputs(
        self, head: DenseHead | None, features: list[Tensor], images: Images, strides: Sequence[int]
    ) -> Outputs:
        assert head is not None
        return Outputs(features, head.layers(features, images), self.anchors(images, features, strides))

    def losses(self, outputs: Outputs, targets: Targets, rng: torch.Generator | None) -> dict[str, Tensor]:
        losses = self.task.losses(outputs.layers[-1], outputs.priors, merge_classes(targets), rng)
        return {f"rpn.{k}": v for k, v in losses.items()}

    def __call__(self, outputs: Outputs, images: Images, *, training: bool) -> Boxes:
        return self.counted(training).detect(detached(outputs.layers[-1]), without_validity(outputs.priors), images)

    def counted(self, training: bool) -> BoxTask:
        """The task with the proposal counts of training or inference."""
        counts = self.train if training else self.test
        return self.task.with_counts(counts.before, counts.after)


@dataclass(frozen=True)
class ExternalProposals(Proposer):
    """External proposals, which come with the images (Fast R-CNN)."""

    source: ProposalSource | None = None

    def outputs(
        self, head: DenseHead | None, features: list[Tensor], images: Images, strides: Sequence[int]
    ) -> Outputs:
        """Raises :class:`UsageError` for a batch without proposals."""
        boxes, valid = images.proposals, images.proposals_valid
        if boxes is None or valid is None:
            raise UsageError(
                "the detector needs external proposals, and the batch has none",
                fix="Call detector.prepare(arrays), which makes them, or pass yours to Images.with_proposals(boxes)",
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
    """The predictions without gradient: proposals are inputs to the second stage."""
    return Predictions(predictions.logits.detach(), predictions.deltas.detach())
