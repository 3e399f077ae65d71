"""Samplers: which priors count in the loss.

The result is a weight (B, A) of 0 or 1, so that shapes are fixed and nothing waits for the device (but the NMS of
:class:`OHEM`), or the indices of a few priors. Ignored and invalid priors are never sampled.
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
    """The role of a sampler. Subclasses are frozen dataclasses."""

    needs_losses: ClassVar[bool] = False  # whether the sampler needs the loss of every prior
    keeps_all: ClassVar[bool] = False  # whether every prior that is not ignored is sampled
    count: int | None = None  # priors sampled of each image at most, known beforehand; None: any number

    @abstractmethod
    def sample(
        self, match: Match, priors: Priors, losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        """match (B, A), losses (B, A) or None, rng on the tensors' device -> (B, A) float32, 0 or 1.

        Raises :class:`UsageError` if ``needs_losses`` and there are none.
        """

    def indices(
        self, match: Match, priors: Priors, losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same sample as indices, to gather equally many priors of each image: index (B, S) int64, sampled (B, S)
        bool. Sampled ones come first; the index of a slot that is not sampled is some prior of the image."""
        sampled = self.sample(match, priors, losses, rng) > 0
        order = (~sampled).to(torch.uint8).argsort(dim=1, stable=True)[:, : self.max_count(sampled)]
        return order, sampled.gather(1, order)

    def max_count(self, sampled: Tensor) -> int:
        """S of :meth:`indices`, given what is sampled (B, A): :attr:`count`, else the largest count of the batch,
        by one device sync."""
        return max(1, int(sampled.sum(1).max())) if self.count is None else self.count


@dataclass(frozen=True)
class All(Sampler):
    """Every prior that is not ignored (RetinaNet, FCOS, SSD without mining)."""

    keeps_all: ClassVar[bool] = True

    def sample(
        self, match: Match, priors: Priors, losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        return _eligible(match, priors.valid).float()


@dataclass(frozen=True)
class Balanced(Sampler):
    """``count`` random priors an image: at most ``count * positive`` positives, and negatives.

    The RPN uses (256, .5), the RoI head (512, .25). Negatives replace missing positives; where negatives are few,
    fewer than ``count`` are sampled (Faster R-CNN, section 3.1.3; torchvision's ``BalancedPositiveNegativeSampler``).
    """

    count: int = 256  # priors sampled of each image
    positive: float = 0.5  # largest fraction of positives

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.positive <= 1:
            raise UsageError(f"{self}: expected a count of at least 1 and a fraction of positives from 0 to 1")

    def sample(
        self, match: Match, priors: Priors, losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        index, sampled = self._draw(match, priors.valid, rng)
        return torch.zeros_like(match.gt, dtype=torch.float32).scatter_add_(1, index, sampled.float())

    def indices(
        self, match: Match, priors: Priors, losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`Sampler.indices`, with S = min(count, A) in any case, so that nothing waits for the device;
        positives come before negatives."""
        index, sampled = self._draw(match, priors.valid, rng)
        order = (~sampled).to(torch.uint8).argsort(dim=1, stable=True)[:, : min(self.count, match.gt.shape[1])]
        return index.gather(1, order), sampled.gather(1, order)

    def _draw(self, match: Match, valid: Tensor | None, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Candidates (B, up to 2 count): their indices and which of them are sampled."""
        eligible = _eligible(match, valid)
        noise = torch.rand(match.gt.shape, generator=rng, device=match.gt.device)
        max_positives = int(self.count * self.positive)
        positive, is_positive = _random_choice(noise, eligible & match.positive, max_positives)
        negative, is_negative = _random_choice(noise, eligible & ~match.positive, self.count)
        negatives = self.count - is_positive.sum(1, keepdim=True)  # (B, 1)
        is_negative = is_negative & (torch.arange(negative.shape[1], device=negatives.device) < negatives)
        return torch.cat([positive, negative], 1), torch.cat([is_positive, is_negative], 1)


@dataclass(frozen=True)
class HardNegatives(Sampler):
    """All positives, and ``ratio`` times as many negatives of each image, those with the largest loss (SSD, 2.2).

    At least ``minimum`` negatives are sampled; at 0 an image without positives has no loss, as in SSD.
    """

    needs_losses: ClassVar[bool] = True
    ratio: float = 3.0  # negatives a positive
    minimum: int = 0  # smallest number of negatives of an image

    def __post_init__(self) -> None:
        if not self.ratio >= 0 or self.minimum < 0:
            raise UsageError(f"{self}: expected ratio and minimum of 0 or more")

    def sample(
        self, match: Match, priors: Priors, losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        losses = _required(self, losses)
        eligible = _eligible(match, priors.valid)
        positive, negative = eligible & match.positive, eligible & ~match.positive
        negatives = (positive.sum(1, keepdim=True) * self.ratio).floor().clamp(min=self.minimum)  # (B, 1)
        order = losses.masked_fill(~negative, -torch.inf).argsort(dim=1, descending=True, stable=True)
        ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
        rank = torch.empty_like(order).scatter_(1, order, ranks)
        return (positive | (negative & (rank < negatives))).float()


@dataclass(frozen=True)
class OHEM(Sampler):
    """The ``count`` priors of each image with the largest loss, after NMS by that loss (Shrivastava et al. 2016, as
    RetinaNet's paper compares it: count 128, 256 or 512, ``iou`` .5 or .7).

    In the second stage (``roi``) a first pass without gradient computes the class and box loss of all proposals, and
    only the sampled ones are trained on, as there. Anchors have one pass alone; they are ranked by their class loss.

    NMS retains one prior of every cluster of overlapping ones, so that one hard object does not fill the sample.
    ``ratio`` 3 is that paper's "OHEM 1:3": of the survivors at most ``count / (1 + ratio)`` positives, and at most
    ``ratio`` times as many negatives as positives (``ratio`` where there are none), so that negatives do not dominate.

    Only as many of the hardest priors go through NMS as are needed to fill the count: greedy NMS decides on a prior
    from harder ones alone, so the result is that of NMS over all of them.
    """

    needs_losses: ClassVar[bool] = True
    count: int = 256  # priors sampled of each image
    iou: float = 0.7  # overlap above which NMS drops the prior with the smaller loss
    ratio: float | None = None  # negatives a positive; None: any

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.iou <= 1 or (self.ratio is not None and not self.ratio > 0):
            raise UsageError(f"{self}: expected a count of at least 1, iou from 0 to 1, ratio None or more than 0")

    def sample(
        self, match: Match, priors: Priors, losses: Tensor | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        losses = _required(self, losses)
        eligible = _eligible(match, priors.valid)
        boxes = priors.batched(losses.shape[0]).float()
        ranked, order = losses.masked_fill(~eligible, -torch.inf).sort(dim=1, descending=True, stable=True)
        sampled = torch.zeros_like(losses, dtype=torch.float32)
        for i, total in enumerate(eligible.sum(1).tolist()):  # NMS is one call an image, and waits for the device
            image = boxes[i][order[i]], ranked[i], match.positive[i][order[i]]
            chosen = self._choose(image[0][:total], image[1][:total], image[2][:total])
            sampled[i].index_fill_(0, order[i][chosen], 1.0)
        return sampled

    def _choose(self, boxes: Tensor, losses: Tensor, positive: Tensor) -> Tensor:
        """The priors of one image by falling loss: boxes (n, 4), losses (n,), positive (n,) -> the indices sampled, at
        most ``count``."""
        from torchvision.ops import nms

        hardest = min(len(boxes), 16 * self.count)
        while True:
            survivors = nms(boxes[:hardest], losses[:hardest], self.iou)
            chosen, full = self._fill(survivors, positive, hardest)
            if full or hardest == len(boxes):
                return chosen
            hardest = min(len(boxes), 4 * hardest)

    def _fill(self, survivors: Tensor, positive: Tensor, hardest: int) -> tuple[Tensor, bool]:
        """The sample of the survivors among the ``hardest`` first priors, and whether the easier ones cannot add to
        it."""
        if self.ratio is None:
            return survivors[: self.count], len(survivors) >= self.count
        is_positive = positive[survivors]
        max_positives = int(self.count / (1 + self.ratio))
        positives = survivors[is_positive][:max_positives]
        max_negatives = min(self.count - len(positives), int(self.ratio * max(1, len(positives))))
        negatives = survivors[~is_positive][:max_negatives]
        complete = len(positives) == max_positives or not bool(positive[hardest:].any())
        return torch.cat([positives, negatives]), complete and len(negatives) == max_negatives


def _eligible(match: Match, valid: Tensor | None) -> Tensor:
    """(B, A) bool: the priors that may be sampled."""
    return ~match.ignored if valid is None else ~match.ignored & valid


def _random_choice(noise: Tensor, among: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Up to ``count`` random priors of each image out of ``among`` (B, A): index and whether it is one of them, each
    (B, <= count)."""
    value, index = noise.masked_fill(~among, -1.0).topk(min(count, noise.shape[1]), dim=1)
    return index, value >= 0


def _required(sampler: Sampler, losses: Tensor | None) -> Tensor:
    if losses is None:
        raise UsageError(f"{type(sampler).__name__} samples priors by their losses, and there are none")
    return losses.detach()
