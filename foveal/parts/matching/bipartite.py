"""SSD's matcher: first every object is assigned a prior of its own, then the other priors by an IoU threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...boxes import pairwise_iou
from ...errors import UsageError
from ...types import Match, Priors, Targets, on_cpu
from .matcher import DecodedOutputs, Matcher, finalize_match, mask_invalid, prior_chunk, without_priors

MIN_OVERLAP = 1e-6  # an overlap at or below this is none (``MatchBBox`` of the released code)


@dataclass(frozen=True)
class BipartiteThenIoU(Matcher):
    """Each object is assigned a prior, then each other prior is assigned to its best object from IoU ``positive`` on
    (SSD, section 2.2).

    ``first="bipartite"``, the released code: of all pairs of an object and a prior the one with the largest overlap is
    matched, both are set aside, and so on until no object is left that a free prior touches. ``first="best"``,
    torchvision: each object is assigned its best prior; where two share one, the later object has it.

    A prior that is not positive is background below IoU ``negative`` and ignored from there on: in the released code
    the negatives to be mined overlap no object by .5. An object that no prior touches is assigned none. Priors that are
    not positive and have at least half of their area in a region of ``targets.ignore`` are ignored.
    """

    positive: float = 0.5  # IoU from which a prior is positive
    negative: float = 0.5  # IoU below which a prior that is not positive is background
    first: Literal["bipartite", "best"] = "bipartite"  # how each object is assigned a prior, whatever the overlap

    def __post_init__(self) -> None:
        if not 0 < self.negative <= self.positive or self.first not in ("bipartite", "best"):
            raise UsageError(f"{self}: expected 0 < negative <= positive, and first 'bipartite' or 'best'")

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, outputs: DecodedOutputs | None = None) -> Match:
        """Memory is bounded by priors x objects in chunks, and objects x objects. No device sync."""
        boxes, objects = mask_invalid(priors, targets)
        if not boxes.shape[-2]:
            return without_priors(targets)
        candidates = objects.shape[1] if self.first == "bipartite" else 1
        iou, gt, overlap, index = _best_of_both(boxes, objects, candidates)
        assign = _assign_bipartite if self.first == "bipartite" else _assign_best
        forced = _object_of_prior(assign(overlap, index, iou.shape[1]), iou.shape[1])
        positive = (iou >= self.positive) | (forced >= 0)
        gt = torch.where(forced >= 0, forced, gt)
        ignored = ~positive & ~(iou < self.negative)  # written so that NaN is ignored
        return finalize_match(gt, positive, ignored, priors, targets)


def _best_of_both(priors: Tensor, objects: Tensor, candidates: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``priors`` (A, 4) or (B, A, 4), ``objects`` (B, G, 4) -> of every prior the largest IoU (B, A) and its object
    (B, A); of every object its ``candidates`` best priors: IoU (B, G, K) and index (B, G, K), the index rising.

    That is enough to choose from: other objects can take at most G - 1 of them away.
    """
    b, g = objects.shape[:2]
    count = priors.shape[-2]
    chunk = min(count, prior_chunk(priors.device, b * g, buffers=8))
    k = min(candidates, count)
    overlap = objects.new_zeros(b, g, 0)
    index = torch.zeros(b, g, 0, dtype=torch.int64, device=objects.device)
    iou, gt = [], []
    for start in range(0, count, chunk):
        part = pairwise_iou(objects, priors[..., start : start + chunk, :])  # (B, G, chunk)
        best = part.max(1)
        iou.append(best.values)
        gt.append(best.indices)
        top = part.topk(min(k, part.shape[2]), 2)
        overlap, index = torch.cat([overlap, top.values], 2), torch.cat([index, top.indices + start], 2)
        if overlap.shape[2] > k:
            overlap, at = overlap.topk(k, 2)
            index = index.gather(2, at)
    index, at = index.sort(2)  # of equal overlaps the first prior is chosen
    return torch.cat(iou, 1), torch.cat(gt, 1), overlap.gather(2, at), index


def _assign_best(overlap: Tensor, index: Tensor, priors: int) -> Tensor:
    """The best prior of each object (B, G), or ``priors`` where none touches it; arguments as :func:`_best_of_both`."""
    return torch.where(overlap[..., 0] > 0, index[..., 0], priors)


def _assign_bipartite(overlap: Tensor, index: Tensor, priors: int) -> Tensor:
    """The prior of each object (B, G), or ``priors`` for none: greedy by falling overlap (B, G, K).

    In each round all pairs are matched that are the best of both their object and their prior: nothing can come between
    them, so a search pair by pair would match them too. The best pair of an image is always one of them, so as many
    rounds as objects are enough.
    """
    b, g, k = overlap.shape
    flat, order = index.flatten(1), torch.arange(g, device=overlap.device)
    assigned = torch.full((b, g), priors, device=overlap.device)
    for _ in range(g):
        if on_cpu(overlap) and not (overlap > MIN_OVERLAP).any():
            break
        value, at = overlap.max(2)  # (B, G)
        prior = index.gather(2, at[..., None]).squeeze(2)
        # a prior that is not among an object's candidates can never be assigned to it
        top = overlap.new_zeros(b, priors).scatter_reduce_(1, flat, overlap.flatten(1), "amax")
        wins = (value > MIN_OVERLAP) & (value == top.gather(1, prior))
        earlier = wins[:, None] & (prior[:, None] == prior[:, :, None]) & (order < order[:, None])  # (B, G, G)
        wins &= ~earlier.any(2)
        assigned = torch.where(wins, prior, assigned)
        used = torch.zeros(b, priors + 1, dtype=torch.bool, device=overlap.device)
        used.scatter_(1, torch.where(wins, prior, priors), True)
        overlap = overlap.masked_fill(wins[..., None] | used.gather(1, flat).view(b, g, k), 0.0)
    return assigned


def _object_of_prior(prior: Tensor, priors: int) -> Tensor:
    """The object of each prior (B, A), -1 for none, from the prior of each object (B, G). The later object wins."""
    b, g = prior.shape
    objects = torch.arange(g, device=prior.device).expand(b, -1)
    gt = torch.full((b, priors + 1), -1, device=prior.device)
    return gt.scatter_reduce_(1, prior, objects, "amax")[:, :priors]
