"""The selection of candidates for non-maximum suppression: exact top-k of fixed size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError


class Candidates(NamedTuple):
    """The (prior, class) pairs selected in each image, level by level, each level by falling score."""

    values: Tensor  # (B, S) their scores; -inf where there are fewer than S
    priors: Tensor  # (B, S) int64: index of the prior
    labels: Tensor  # (B, S) int64: the class
    level: Tensor  # (S,) int64


@dataclass(frozen=True)
class Select:
    """Selects the (prior, class) pairs with a score above ``score`` as candidates, at most ``per_level`` a level.

    Boxes with a side under ``min_size`` network pixels are dropped after decoding (see :meth:`valid`).
    """

    score: float = 0.05  # score threshold: a candidate's score is above this
    per_level: int | None = 1000  # candidates of each level; None: all above the score (inference only: a device sync)
    min_size: float = 0.0  # smallest side of a box, network pixels
    per_class: int | None = None  # candidates of each class over all levels, in place of ``per_level`` (SSD)
    best_class: bool = False  # only the best class of each prior (DETR)

    def __post_init__(self) -> None:
        if self.best_class and self.per_class is not None:
            raise UsageError("Select: best_class and per_class exclude each other")
        if self.per_class is not None and self.per_level is not None:
            raise UsageError("Select: per_level and per_class exclude each other", fix="Set per_level=None as well")
        if any(n is not None and n < 1 for n in (self.per_level, self.per_class)):
            raise UsageError(f"Select: expected per_level and per_class of at least 1, or None, got {self}")

    @torch.no_grad()
    def candidates(
        self, scores: Tensor, counts: Sequence[int], to_scores: Callable[[Tensor], Tensor] | None = None
    ) -> Candidates:
        """The best pairs of each level, exactly, without a device sync (but for ``per_level=None``).

        ``scores`` (B, A, C) are scores, or logits together with ``to_scores``, a function that rises with each of
        them, so that only the selected ones are converted. ``counts``: how many of the A belong to each level.
        """
        if self.per_class is not None:
            return self._best_of_classes(scores, self.per_class, to_scores)
        if self.best_class:
            best, label = scores.max(-1, keepdim=True)
            selected = replace(self, best_class=False).candidates(best, counts, to_scores)
            return selected._replace(labels=label.squeeze(-1).gather(1, selected.priors))
        if self.per_level is None:
            return self._all(scores if to_scores is None else to_scores(scores), counts)
        classes = scores.shape[2]
        values, indices, sizes, start = [], [], [], 0
        for count in counts:
            value, index = top_values(scores[:, start : start + count].flatten(1), self.per_level)
            values.append(value)
            indices.append(index + start * classes)
            sizes.append(value.shape[1])
            start += count
        value, index = torch.cat(values, 1).float(), torch.cat(indices, 1)
        if to_scores is not None:  # -inf marks a pair that must not be selected, and stays
            value = torch.where(value == -torch.inf, value, to_scores(value))
        prior = torch.div(index, classes, rounding_mode="floor")
        return Candidates(value, prior, index - prior * classes, _levels(sizes, value.device))

    def valid(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """(B, S) bool: whether the boxes (B, S, 4) are finite, both sides long enough and the scores (B, S) above the
        threshold."""
        valid = (scores > self.score if self.score > 0 else scores > -torch.inf) & boxes.isfinite().all(-1)
        if self.min_size > 0:
            valid = valid & ((boxes[..., 2:] - boxes[..., :2]) >= self.min_size).all(-1)
        return valid

    def _best_of_classes(self, scores: Tensor, k: int, to_scores: Callable[[Tensor], Tensor] | None) -> Candidates:
        """The ``k`` best priors of each class over all levels, which count as one. No device sync."""
        value, prior = scores.transpose(1, 2).topk(min(k, scores.shape[1]), 2)  # (B, C, k)
        if to_scores is not None:  # -inf marks a pair that must not be selected, and stays
            value = torch.where(value == -torch.inf, value, to_scores(value))
        label = torch.arange(scores.shape[2], device=scores.device)[:, None].expand_as(prior)
        level = torch.zeros(value[0].numel(), dtype=torch.int64, device=scores.device)
        return Candidates(value.flatten(1).float(), prior.flatten(1), label.flatten(1), level)

    def _all(self, scores: Tensor, counts: Sequence[int]) -> Candidates:
        """All pairs above the score threshold."""
        if len(counts) > 1:
            raise UsageError("Select(per_level=None) is for heads with a single level; give a number of candidates")
        classes, flat = scores.shape[2], scores.flatten(1).float()
        above = flat > self.score
        if flat.device.type == "cpu":
            by_image = [torch.from_numpy(np.flatnonzero(image)) for image in above.numpy()]
            index = torch.nn.utils.rnn.pad_sequence(by_image, batch_first=True)
            value = flat.gather(1, index)
            for image, selected in zip(value, by_image, strict=True):
                image[len(selected) :] = -torch.inf
        else:
            k = max(1, int(above.sum(1).amax()))
            value, index = top_values(flat.masked_fill(~above, -torch.inf), k)
        prior = torch.div(index, classes, rounding_mode="floor")
        return Candidates(value, prior, index - prior * classes, _levels((index.shape[1],), index.device))


def top_values(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of each row of (B, L), exactly, by falling value: values and indices, each (B, min(k, L)).

    The k highest lie in the k groups with the highest maxima, whatever the groups. Groups of far apart values make the
    maxima one vectorized pass over memory; with about sqrt(L / k) members some sqrt(L k) values are ranked, not L.
    """
    b, length = values.shape
    k = min(k, length)
    members = int((length / k) ** 0.5 / 2)  # half of it, because fetching members costs more than ranking groups
    if members < 3:
        top = values.topk(k, 1)
        return top.values, top.indices
    groups = length // members
    grouped = values[:, : members * groups].view(b, members, groups)
    best = grouped.amax(1).topk(k, 1, sorted=False).indices.sort(1).values  # (B, k), in the order of memory
    remainder = torch.arange(members * groups, length, device=values.device).expand(b, -1)  # fewer than a group has
    step = torch.arange(0, members * groups, groups, device=values.device)
    index = torch.cat([(best[:, None] + step[:, None]).flatten(1), remainder], 1)
    value, at = values.gather(1, index).topk(k, 1)
    return value, index.gather(1, at)


def _levels(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Level i repeated sizes[i] times, (S,) int64."""
    return torch.cat([torch.full((n,), i, dtype=torch.int64, device=device) for i, n in enumerate(sizes)])
