"""Samplers: which rows of a match count in the loss.

The answer is a weight (B, A) of 0 or 1, so nothing changes its shape and nothing waits for the device (but the NMS of
:class:`OHEM`), or the indices of a few rows. Ignored rows and rows whose prior is not valid are never kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import UsageError
from ..types import Match, Priors


class Sampler(ABC):
    needs_losses: ClassVar[bool] = False  # whether ``keep`` looks at the loss of every row
    keeps_all: ClassVar[bool] = False  # whether every row that is not ignored counts
    count: int | None = None  # rows sampled of each image at most, known before they are chosen; None: any number

    @abstractmethod
    def keep(
        self, match: Match, priors: Priors, row_losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        """match of (B, A) rows, row_losses (B, A) or None, rng on the tensors' device -> (B, A) float32, 0 or 1."""

    def rows(
        self, match: Match, priors: Priors, row_losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same choice as indices, to gather as many rows of each image: index (B, R) int64, kept (B, R) bool. Kept
        rows come first; the index of a slot that is not kept is some row of the image."""
        keep = self.keep(match, priors, row_losses, rng) > 0
        order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, : self.most(keep)]
        return order, keep.gather(1, order)

    def most(self, keep: Tensor) -> int:
        """R of :meth:`rows`: :attr:`count`; without one the largest number of the batch, for which the CPU waits."""
        return max(1, int(keep.sum(1).max())) if self.count is None else self.count


@dataclass(frozen=True)
class All(Sampler):
    """Every row that is not ignored (RetinaNet, FCOS, SSD without mining)."""

    keeps_all: ClassVar[bool] = True

    def keep(
        self, match: Match, priors: Priors, row_losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        return _eligible(match, priors.valid).float()


@dataclass(frozen=True)
class Balanced(Sampler):
    """``count`` rows an image at random: at most ``count * positive`` positives, negatives for the rest.

    The RPN takes (256, .5), the RoI head (512, .25). Where positives are few, negatives fill up; where negatives are
    few, fewer than ``count`` are kept (Faster R-CNN, section 3.1.3; torchvision's ``BalancedPositiveNegativeSampler``).
    """

    count: int = 256
    positive: float = 0.5

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.positive <= 1:
            raise UsageError(f"{self}: expected a count of at least 1 and a share of positives from 0 to 1")

    def keep(
        self, match: Match, priors: Priors, row_losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        index, kept = self._draw(match, priors.valid, rng)
        return torch.zeros_like(match.gt, dtype=torch.float32).scatter_add_(1, index, kept.float())

    def rows(
        self, match: Match, priors: Priors, row_losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """R = min(count, A), whatever is found, so nothing waits for the device; positives come before negatives."""
        index, kept = self._draw(match, priors.valid, rng)
        rows = min(self.count, match.gt.shape[1])
        order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :rows]
        return index.gather(1, order), kept.gather(1, order)

    def _draw(self, match: Match, valid: Tensor | None, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Candidates (B, up to 2 count): their indices and which of them are taken."""
        eligible = _eligible(match, valid)
        noise = torch.rand(match.gt.shape, generator=rng, device=match.gt.device)
        most = int(self.count * self.positive)
        positive, take_positive = _first(noise, eligible & match.positive, most)
        negative, take_negative = _first(noise, eligible & ~match.positive, self.count)
        wanted = self.count - take_positive.sum(1, keepdim=True)
        take_negative = take_negative & (torch.arange(negative.shape[1], device=wanted.device) < wanted)
        return torch.cat([positive, negative], 1), torch.cat([take_positive, take_negative], 1)


@dataclass(frozen=True)
class HardNegatives(Sampler):
    """All positives, and of each image's negatives the ``ratio`` times as many with the largest loss (SSD, 2.2).

    ``minimum`` negatives are kept in any case; at 0 an image without positives has no part in the loss, as in SSD.
    """

    needs_losses: ClassVar[bool] = True
    ratio: float = 3.0
    minimum: int = 0

    def __post_init__(self) -> None:
        if not self.ratio >= 0 or self.minimum < 0:
            raise UsageError(f"{self}: expected zero or more for both")

    def keep(
        self, match: Match, priors: Priors, row_losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        losses = _required(self, row_losses)
        eligible = _eligible(match, priors.valid)
        positive, negative = eligible & match.positive, eligible & ~match.positive
        wanted = (positive.sum(1, keepdim=True) * self.ratio).floor().clamp(min=self.minimum)
        order = losses.masked_fill(~negative, -torch.inf).argsort(dim=1, descending=True, stable=True)
        place = torch.arange(order.shape[1], device=order.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(1, order, place)
        return (positive | (negative & (rank < wanted))).float()


@dataclass(frozen=True)
class OHEM(Sampler):
    """The ``count`` rows of each image with the largest loss, after NMS by that loss (Shrivastava et al. 2016, as
    RetinaNet's paper compares it: count 128, 256 or 512, ``iou`` .5 or .7).

    In the slot ``roi`` all proposals are looked at without gradient, by class and box loss together, and only the
    chosen ones are learned from, as there. Over anchors, where one pass is all there is, the class loss decides.

    NMS keeps one row from every crowd of overlapping priors, so that one hard place is not counted many times.
    ``ratio`` 3 is that paper's "OHEM 1:3": of the survivors at most ``count / (1 + ratio)`` positives, and negatives
    at most ``ratio`` times the positives kept (times one where there are none), so that no batch is all negatives.

    Only as many of the hardest rows go through NMS as are needed to fill the count: greedy NMS decides on a row from
    harder ones alone, so the answer is that of NMS over all of them.
    """

    needs_losses: ClassVar[bool] = True
    count: int = 256
    iou: float = 0.7
    ratio: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.iou <= 1 or (self.ratio is not None and not self.ratio > 0):
            raise UsageError(f"{self}: expected count of at least 1, iou from 0 to 1, ratio None or more than 0")

    def keep(
        self, match: Match, priors: Priors, row_losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        losses = _required(self, row_losses)
        eligible = _eligible(match, priors.valid)
        boxes = priors.batched(losses.shape[0]).float()
        ranked, order = losses.masked_fill(~eligible, -torch.inf).sort(dim=1, descending=True, stable=True)
        keep = torch.zeros_like(losses, dtype=torch.float32)
        for i, total in enumerate(eligible.sum(1).tolist()):  # NMS is one call an image, and waits for the device
            image = boxes[i][order[i]], ranked[i], match.positive[i][order[i]]
            chosen = self._choose(image[0][:total], image[1][:total], image[2][:total])
            keep[i].index_fill_(0, order[i][chosen], 1.0)
        return keep

    def _choose(self, boxes: Tensor, losses: Tensor, positive: Tensor) -> Tensor:
        """Rows of one image by falling loss -> the places kept (at most ``count``)."""
        from torchvision.ops import nms

        head = min(len(boxes), 16 * self.count)
        while True:
            survivors = nms(boxes[:head], losses[:head], self.iou)
            chosen, full = self._fill(survivors, positive, head)
            if full or head == len(boxes):
                return chosen
            head = min(len(boxes), 4 * head)

    def _fill(self, survivors: Tensor, positive: Tensor, head: int) -> tuple[Tensor, bool]:
        """Those kept of the survivors among the ``head`` hardest rows; whether easier rows could not add to them."""
        if self.ratio is None:
            return survivors[: self.count], len(survivors) >= self.count
        is_positive = positive[survivors]
        most = int(self.count / (1 + self.ratio))
        positives = survivors[is_positive][:most]
        room = min(self.count - len(positives), int(self.ratio * max(1, len(positives))))
        negatives = survivors[~is_positive][:room]
        no_more = len(positives) == most or not bool(positive[head:].any())
        return torch.cat([positives, negatives]), no_more and len(negatives) == room


def _eligible(match: Match, valid: Tensor | None) -> Tensor:
    """(B, A) bool: rows that may count."""
    return ~match.ignored if valid is None else ~match.ignored & valid


def _first(noise: Tensor, among: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Up to ``count`` random rows of each image out of ``among`` (B, A): index and taken, each (B, <= count)."""
    value, index = noise.masked_fill(~among, -1.0).topk(min(count, noise.shape[1]), dim=1)
    return index, value >= 0


def _required(sampler: Sampler, row_losses: Tensor | None) -> Tensor:
    if row_losses is None:
        raise UsageError(f"{type(sampler).__name__} chooses rows by their loss and was given none")
    return row_losses.detach()
