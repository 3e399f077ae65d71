"""From the scores of all priors to the boxes returned: selection of candidates, then non-maximum suppression (NMS).

Shapes: scores (B, A, C); S candidates an image; boxes (B, S, 4). Nothing here carries a gradient.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from ..errors import UsageError
from ..types import Boxes


# -------------------------------------------------------------------------------------------- the candidates
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
            best, label = finite_scores(scores).max(-1, keepdim=True)
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
        k = min(k, scores.shape[1])
        value, prior = ranked(scores.transpose(1, 2), lambda each: each.topk(k, 2))  # (B, C, k)
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
        above = (flat > self.score) & (flat < torch.inf)
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
    k = min(k, values.shape[1])
    return ranked(values, lambda each: _top(each, k))


def ranked(values: Tensor, top: Callable[[Tensor], Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """``top`` of the finite ``values``: NaN and infinity come last, where ``topk`` has them first.

    On a CPU they are looked for among the highest alone, and reported.
    """
    if values.device.type == "cpu":
        value, index = top(values)
        if (value.float().numpy() < np.inf).all():  # NaN is not
            return value, index
        report_nonfinite()
    value, index = top(finite_scores(values))
    return value, index


@cache  # once a process
def report_nonfinite() -> None:
    """Says that scores are not finite."""
    logging.getLogger("foveal").warning(
        "the network computes scores that are not finite, which are no candidates: its weights have become too large, "
        "or their precision is too small (try --precision 32)"
    )


def finite_scores(scores: Tensor) -> Tensor:
    """The scores with -inf, which no candidate has, in the place of NaN and infinity."""
    return torch.where(scores < torch.inf, scores, -torch.inf)


def _top(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    b, length = values.shape
    members = int((length / max(1, k)) ** 0.5 / 2)  # half of it: fetching members costs more than ranking groups
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


# -------------------------------------------------------------------------------------------- suppression
@dataclass(frozen=True)
class Suppress(ABC):
    """``suppress(boxes (B, S, 4), scores (B, S), labels (B, S), level (S,), valid (B, S)) -> Boxes``."""

    top: int = field(default=100, kw_only=True)  # largest number of boxes of an image

    @abstractmethod
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes: ...


@dataclass(frozen=True)
class NMS(Suppress):
    """Greedy non-maximum suppression: a box is removed if its IoU with a better one of its group is above ``iou``.

    The result is the first ``top`` of torchvision's ``batched_nms``, for a whole batch. On a CPU the kernel gets the
    candidates best first until ``top`` remain; on a GPU the batch takes one call where memory allows it.
    """

    iou: float = 0.5
    per: Literal["class", "level", "all"] = "class"  # what a group is; boxes do not suppress those of other groups

    def __post_init__(self) -> None:
        if self.per not in ("class", "level", "all"):
            raise UsageError(f"NMS: per is {self.per!r}, not one of class, level, all")

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes:
        """The remaining boxes, padded to min(top, S), by falling score. The only device sync is NMS itself."""
        group = {"class": labels, "level": level.expand_as(labels), "all": torch.zeros_like(labels)}[self.per]
        top = min(self.top, boxes.shape[1])
        run = suppress_on_cpu if boxes.device.type == "cpu" else suppress_on_device
        return gather_boxes(boxes, scores, labels, *run(boxes.float(), scores.float(), group, valid, self.iou, top))


@dataclass(frozen=True)
class NoNMS(Suppress):
    """Returns the best ``top`` boxes and removes no duplicates: for set prediction."""

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes:
        """The best boxes, padded to min(top, S), by falling score. No device sync."""
        ranked = scores.float().masked_fill(~valid, -torch.inf)
        index = ranked.argsort(dim=1, descending=True, stable=True)[:, : self.top]
        return gather_boxes(boxes, scores, labels, index, valid.gather(1, index))


def gather_boxes(boxes: Tensor, scores: Tensor, labels: Tensor, index: Tensor, valid: Tensor) -> Boxes:
    """The candidates at ``index`` (B, N) as boxes, zero where not ``valid`` (B, N)."""
    zero = scores.new_zeros(())
    return Boxes(
        boxes=torch.where(valid[..., None], boxes.gather(1, index[..., None].expand(-1, -1, 4)), zero.to(boxes.dtype)),
        scores=torch.where(valid, scores.gather(1, index), zero),
        labels=labels.gather(1, index) * valid,
        valid=valid,
        rows=index,
    )


FAR = 2.0**30  # pixels, no box is farther out: moved by 1e20, as far as one of them was, all others became points
DEVICE_BOXES = 20_000  # boxes in one kernel call on a GPU: its bit matrix takes boxes^2 / 8 bytes, here 50 MB
# A call costs about as much as 300,000 pairs of boxes. One call on boxes shifted apart compares all n^2 pairs, one call
# a group only its own: with 80 classes they cost the same near 5,000 boxes.
PAIRS_PER_CALL = 300_000
FIRST_PART = 1.5  # times ``top``: the candidates, best first, that NMS on a CPU begins with


def suppress_on_cpu(
    boxes: Tensor, scores: Tensor, group: Tensor, valid: Tensor, iou: float, top: int
) -> tuple[Tensor, Tensor]:
    """Greedy NMS of CPU tensors: ``boxes`` (B, S, 4) float32, ``scores``, ``group`` and ``valid`` (B, S).

    Returns the indices of the remaining boxes by falling score (B, top), and whether there is one (B, top) bool.
    """
    index = torch.zeros(len(boxes), top, dtype=torch.int64)
    remains = torch.zeros(len(boxes), top, dtype=torch.bool)
    for i, is_valid in enumerate(valid.numpy()):
        indices = torch.from_numpy(np.flatnonzero(is_valid))
        if len(indices) == len(is_valid) > 0:
            result = _nms_image(boxes[i], scores[i], group[i], iou, top)
        elif len(indices):
            result = indices[_nms_image(boxes[i, indices], scores[i, indices], group[i, indices], iou, top)]
        else:
            continue
        index[i, : len(result)], remains[i, : len(result)] = result, True
    return index, remains


def _nms_image(boxes: Tensor, scores: Tensor, group: Tensor, iou: float, top: int) -> Tensor:
    """The first ``top`` remaining boxes of one image, by falling score: boxes (n, 4), scores, group (n,) -> indices.

    Only better boxes remove a box. So the best are taken first, then more, each time with those that remain so far.
    """
    order = scores.argsort(descending=True, stable=True)
    remaining, start, size = order[:0], 0, max(1, int(FIRST_PART * top))
    while start < len(order) and len(remaining) < top:
        part = torch.cat([remaining, order[start : start + size]])
        remaining = part[_nms_sorted(boxes[part], scores[part], group[part], iou)]
        start, size = start + size, 2 * size
    return remaining[:top]


def _nms_sorted(boxes: Tensor, scores: Tensor, group: Tensor, iou: float) -> Tensor:
    """The indices of the remaining ones of boxes (n, 4) that are sorted by falling score, ascending."""
    if len(boxes) ** 2 > PAIRS_PER_CALL:
        ordered, at = group.sort(stable=True)
        bounds = [0, *(np.flatnonzero(np.diff(ordered.numpy())) + 1).tolist(), len(at)]
        if len(bounds) == 2 or len(boxes) ** 2 > PAIRS_PER_CALL * (len(bounds) - 1):
            boxes, scores = boxes[at], scores[at]
            parts = [nms(boxes[i:j], scores[i:j], iou) + i for i, j in pairwise(bounds)]
            return at[torch.cat(parts)].sort().values
    return cast(Tensor, nms(_shifted(boxes, group), scores.double(), iou))


def suppress_on_device(
    boxes: Tensor, scores: Tensor, group: Tensor, valid: Tensor, iou: float, top: int
) -> tuple[Tensor, Tensor]:
    """:func:`suppress_on_cpu` on any device, in one kernel call for as many images as :data:`DEVICE_BOXES` allows."""
    b, s = scores.shape
    boxes = torch.where(valid[..., None], boxes, boxes.new_zeros(()))  # an empty box suppresses nothing ...
    ranked = scores.masked_fill(~valid, -torch.inf)  # ... and comes last
    remains = torch.zeros(b, s, dtype=torch.bool, device=boxes.device)
    step = max(1, DEVICE_BOXES // max(1, s))
    for i in range(0, b if s else 0, step):
        part = boxes[i : i + step]
        image = torch.arange(len(part), device=boxes.device)[:, None]
        combined = image * (group[i : i + step].amax() + 1) + group[i : i + step]  # (image, group) as one number
        indices = nms(_shifted(part.flatten(0, 1), combined.flatten()), ranked[i : i + step].flatten().double(), iou)
        remains[i : i + step].view(-1).index_fill_(0, indices, True)
    remains &= valid
    index = ranked.masked_fill(~remains, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :top]
    return index, remains.gather(1, index)


def _shifted(boxes: Tensor, group: Tensor) -> Tensor:
    """Boxes (n, 4) moved apart so that those of different groups do not overlap, in fp64: IoUs are not rounded."""
    wide = boxes.double().clamp(-FAR, FAR)
    return wide + (group.to(wide) * (wide.amax() - wide.amin() + 1))[:, None]
