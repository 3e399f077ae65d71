"""SSD's matching: first every object gets a prior of its own, then every prior the object it overlaps enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...boxes import pairwise_iou
from ...errors import UsageError
from ...types import Match, Priors, Targets
from .matcher import DEVICE_BUDGET, HOST_BUDGET, DecodedOutputs, Matcher, finalize_match, mask_invalid

LEAST = 1e-6  # an overlap at or below this is none (``MatchBBox`` of the released code)


@dataclass(frozen=True)
class BipartiteThenIoU(Matcher):
    """Each object takes a prior, then each prior that is left answers for its best object from IoU ``positive`` on
    (SSD, section 2.2).

    ``first="bipartite"``, the released code: of all pairs of an object and a prior the one with the largest overlap is
    matched, both are set aside, and so on until no object is left that a free prior touches. ``first="best"``,
    torchvision: each object takes its best prior; where two want the same one, the later object has it.

    A prior that is not positive is background below IoU ``negative`` and ignored from there on: in the released code
    the negatives to be mined overlap no object by .5. An object that no prior touches forces nothing. Priors that lie
    by half or more in a region of ``targets.ignore`` and are not positive are ignored.
    """

    positive: float = 0.5  # IoU from which a prior is an object
    negative: float = 0.5  # IoU under which a prior that is no object is background
    first: Literal["bipartite", "best"] = "bipartite"  # how each object comes by a prior whatever the overlap

    def __post_init__(self) -> None:
        if not 0 < self.negative <= self.positive or self.first not in ("bipartite", "best"):
            raise UsageError(f"{self}: expected 0 < negative <= positive, and first 'bipartite' or 'best'")

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, outputs: DecodedOutputs | None = None) -> Match:
        """Memory is bounded by priors x objects in pieces, and objects x objects. No host sync on an accelerator."""
        boxes, objects = mask_invalid(priors, targets)
        candidates = objects.shape[1] if self.first == "bipartite" else 1
        iou, gt, overlap, index = _overlaps(boxes, objects, candidates)
        wanted = _bipartite(overlap, index, iou.shape[1]) if self.first == "bipartite" else _best(overlap, index, iou)
        forced = _owner(wanted, iou.shape[1])
        positive = (iou >= self.positive) | (forced >= 0)
        gt = torch.where(forced >= 0, forced, gt)
        ignored = ~positive & ~(iou < self.negative)  # so written, not a number is ignored
        return finalize_match(gt, positive, ignored, priors, targets)


def _overlaps(priors: Tensor, objects: Tensor, candidates: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``priors`` (A, 4) or (B, A, 4), ``objects`` (B, G, 4) -> of every prior the largest IoU (B, A) and its object
    (B, A); of every object its ``candidates`` best priors: IoU (B, G, K) and index (B, G, K), the index rising.

    That is enough to choose from: others can take at most G - 1 of them away.
    """
    b, g = objects.shape[:2]
    every = priors.shape[-2]
    budget = HOST_BUDGET if priors.device.type == "cpu" else DEVICE_BUDGET // 8  # several values a pair
    chunk = min(every, max(256, budget // (b * g)))
    keep = min(candidates, every)
    overlap = objects.new_zeros(b, g, 0)
    index = torch.zeros(b, g, 0, dtype=torch.int64, device=objects.device)
    iou, gt = [], []
    for start in range(0, every, chunk):
        part = pairwise_iou(objects, priors[..., start : start + chunk, :])  # (B, G, chunk)
        best = part.max(1)
        iou.append(best.values)
        gt.append(best.indices)
        top = part.topk(min(keep, part.shape[2]), 2)
        overlap, index = torch.cat([overlap, top.values], 2), torch.cat([index, top.indices + start], 2)
        if overlap.shape[2] > keep:
            overlap, at = overlap.topk(keep, 2)
            index = index.gather(2, at)
    index, at = index.sort(2)  # of equal overlaps the first prior is taken
    return torch.cat(iou, 1), torch.cat(gt, 1), overlap.gather(2, at), index


def _best(overlap: Tensor, index: Tensor, iou: Tensor) -> Tensor:
    """The best prior of each object (B, G); the number of priors where none touches it."""
    return torch.where(overlap[..., 0] > 0, index[..., 0], iou.shape[1])


def _bipartite(overlap: Tensor, index: Tensor, priors: int) -> Tensor:
    """The prior of each object (B, G), or ``priors`` for none: greedy by falling overlap.

    In each round all pairs are matched that are the best of both their object and their prior: nothing can come between
    them, so a search pair by pair would match them too. The best pair of an image is always one of them, so as many
    rounds as objects are enough.
    """
    b, g, k = overlap.shape
    flat, order = index.flatten(1), torch.arange(g, device=overlap.device)
    taken = torch.full((b, g), priors, device=overlap.device)
    for _ in range(g):
        if _on_host(overlap) and not (overlap > LEAST).any():
            break
        value, at = overlap.max(2)  # (B, G)
        prior = index.gather(2, at[..., None]).squeeze(2)
        # a prior that is not among an object's candidates is none that the object can come to
        top = overlap.new_zeros(b, priors).scatter_reduce_(1, flat, overlap.flatten(1), "amax")
        wins = (value > LEAST) & (value == top.gather(1, prior))
        earlier = wins[:, None] & (prior[:, None] == prior[:, :, None]) & (order < order[:, None])  # (B, G, G)
        wins &= ~earlier.any(2)
        taken = torch.where(wins, prior, taken)
        gone = torch.zeros(b, priors + 1, dtype=torch.bool, device=overlap.device)
        gone.scatter_(1, torch.where(wins, prior, priors), True)
        overlap = overlap.masked_fill(wins[..., None] | gone.gather(1, flat).view(b, g, k), 0.0)
    return taken


def _owner(wanted: Tensor, priors: int) -> Tensor:
    """The object that has a prior (B, A), -1 for none, from the prior of each object (B, G). The later object wins."""
    b, g = wanted.shape
    objects = torch.arange(g, device=wanted.device).expand(b, -1)
    owner = torch.full((b, priors + 1), -1, device=wanted.device)
    return owner.scatter_reduce_(1, wanted, objects, "amax")[:, :priors]


def _on_host(tensor: Tensor) -> bool:
    """Whether looking at a value costs nothing."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
