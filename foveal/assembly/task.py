"""What a detector is asked to do with its predictions: match, sample, encode, penalize; or decode, score, suppress.

A task owns no weights. It is the field ``task`` of a one-stage spec, ``rpn`` and ``roi`` of a two-stage one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from .. import boxes as box_ops
from ..errors import UsageError
from ..parts.coders import Coder, Delta
from ..parts.losses.box import BoxLoss, SmoothL1
from ..parts.losses.classification import ClassLoss
from ..parts.losses.quality import Quality
from ..parts.matching.matcher import Matcher
from ..parts.postprocess.nms import NMS, Suppress
from ..parts.postprocess.select import Select
from ..parts.samplers import All, Sampler
from ..types import Boxes, Images, Match, Predictions, Priors, Targets


@dataclass(frozen=True)
class BoxTask:
    """One stage of classification and box regression over a set of priors."""

    matcher: Matcher  # which object each prior answers for
    cls_loss: ClassLoss  # owns the number of logits, the scores, the prior bias and its normalizer
    box_loss: BoxLoss = SmoothL1()  # picks its own space; owns its normalizer
    sampler: Sampler = All()  # which rows count
    coder: Coder = Delta()  # boxes <-> deltas
    quality: Quality | None = None  # objectness or center-ness, where the head predicts one
    select: Select = Select()  # candidates for detection: score threshold, top-k of each level
    suppress: Suppress = NMS()  # removes duplicates, keeps the best
    clip: Literal["before", "after"] = "before"  # boxes are clipped to the picture before suppression, or after it

    def __post_init__(self) -> None:
        if self.clip not in ("before", "after"):
            raise UsageError(f"BoxTask: clip is {self.clip!r}, not one of before, after")

    # ------------------------------------------------------------------------------------------- training
    def match(self, predictions: Predictions, priors: Priors, targets: Targets) -> Match:
        """Assigns an object (or none) to every prior; nothing here carries a gradient."""
        return self.matches([predictions], priors, targets)[0]

    @torch.no_grad()
    def matches(self, layers: Sequence[Predictions], priors: Priors, targets: Targets) -> list[Match]:
        """The match of each decoder layer. A matcher that looks at outputs is asked once, about all of them."""
        if not self.matcher.needs_outputs:
            return [self.matcher(priors, targets)] * len(layers)
        times = len(layers)
        if times > 1:
            priors, targets = priors.repeated(times), targets.repeated(times)
        deltas = torch.cat([layer.deltas.detach().float() for layer in layers])
        scores = self.cls_loss.scores(torch.cat([layer.logits.detach().float() for layer in layers]))
        boxes = self.coder.decode(deltas, priors.places(len(deltas)))
        found = self.matcher(priors, targets, (boxes, scores))
        return found.chunk(times) if times > 1 else [found]

    def losses(
        self,
        predictions: Predictions,
        priors: Priors,
        targets: Targets,
        rng: torch.Generator | None = None,
        *,
        match: Match | None = None,
        kept: Tensor | None = None,
        seen: int = 0,
    ) -> dict[str, Tensor]:
        """``{"cls", "box"[, "quality"]}``, each a scalar; their plain sum is the loss.

        ``match`` and ``kept`` (B, A) are given where the rows were sampled before the head ran. ``seen``: how many
        images were trained on so far.
        """
        if match is None:
            match = self.match(predictions, priors, targets)
        rows = self._class_rows(predictions, targets, match)
        if kept is None:
            found = rows.detach() if self.sampler.needs_losses else None
            kept = self.sampler.sample(match, priors, found, rng)
        keep = kept.to(rows.dtype)
        by_class = self.cls_loss.prior_weight(match.positive)
        weighted = keep if by_class is None else keep * by_class
        factor = self.cls_loss.normalizer(weighted, match.positive)
        losses = {"cls": _total(rows, weighted, factor, self.cls_loss.weight)}

        where, truth, deltas = self._regression(predictions, priors, targets, match)
        box_rows = self.box_loss(deltas, where, truth, self.coder)  # (B, A)
        counted = keep
        if self.quality is not None and predictions.quality is not None:
            found_boxes = self.coder.decode(deltas.detach(), where) if self.quality.needs_boxes else None
            losses["quality"] = self.quality.loss(predictions.quality, found_boxes, priors, targets, match, keep)
            by_row = self.quality.prior_weight(priors, truth, match)
            counted = keep if by_row is None else keep * by_row
        factor = self.box_loss.normalizer(counted, match.positive)
        by_size = self.box_loss.prior_weight(where, truth)
        share = match.positive if by_size is None else match.positive * by_size
        rest = self.box_loss.background(seen)
        share = share if rest == 0 else share + rest * ~match.positive
        losses["box"] = _total(box_rows, counted * share, factor, self.box_loss.weight)
        return losses

    @torch.no_grad()
    def row_losses(self, predictions: Predictions, priors: Priors, targets: Targets, match: Match) -> Tensor:
        """What each row would be penalized by, before any normalizer (B, A): its class loss, and a positive one's box
        loss beside it. OHEM chooses proposals by it (Shrivastava et al. 2016)."""
        where, truth, deltas = self._regression(predictions, priors, targets, match)
        box_rows = self.box_loss(deltas, where, truth, self.coder) * self.box_loss.weight
        by_size = self.box_loss.prior_weight(where, truth)
        box_rows = box_rows if by_size is None else box_rows * by_size
        rows = self._class_rows(predictions, targets, match) * self.cls_loss.weight
        return rows + torch.where(match.positive, box_rows, 0.0)

    def _class_rows(self, predictions: Predictions, targets: Targets, match: Match) -> Tensor:
        """The class loss of every row (B, A)."""
        labels = targets.labels.gather(1, match.gt)
        rows = self.cls_loss(predictions.logits, labels, match.positive)
        more = self.cls_loss.extra_class_loss(predictions.logits, targets.labels, match)
        return rows if more is None else rows + more

    @staticmethod
    def _regression(
        predictions: Predictions, priors: Priors, targets: Targets, match: Match
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where each row stands (B, A, 4 or 9), the box it should answer and its deltas (B, A, 4)."""
        labels = targets.labels.gather(1, match.gt)
        where = priors.places(len(labels))
        truth = targets.boxes.gather(1, match.gt[..., None].expand(-1, -1, 4))
        # a row without an object regresses to its own prior, so no log or division meets a bad box
        truth = torch.where(match.positive[..., None], truth, where[..., :4])
        return where, truth, _of_class(predictions.deltas.float(), labels)

    # ------------------------------------------------------------------------------------------ inference
    @torch.no_grad()
    def detect(self, predictions: Predictions, priors: Priors, images: Images) -> Boxes:
        """The surviving boxes of each image, in network pixels, clipped, by falling score."""
        logits = predictions.logits
        on_logits = self.cls_loss.monotone and self.quality is None
        scores = logits if on_logits else self.cls_loss.scores(logits.float())
        if self.quality is not None and predictions.quality is not None:
            scores = self.quality.scores(scores, predictions.quality.float())
        if priors.valid is not None:
            scores = scores.masked_fill(~priors.valid[..., None], -torch.inf)
        values, rows, labels, level = self.select.candidates(
            scores, priors.counts, self.cls_loss.scores if on_logits else None
        )
        deltas = predictions.deltas
        if deltas.dim() == 4:
            classes = deltas.shape[2]
            flat = (rows * classes + labels)[..., None].expand(-1, -1, 4)
            deltas = deltas.flatten(1, 2).gather(1, flat)
        else:
            deltas = deltas.gather(1, rows[..., None].expand(-1, -1, 4))
        where = priors.places(len(rows))
        where = where.gather(1, rows[..., None].expand(-1, -1, where.shape[-1]))
        boxes = self.coder.decode(deltas.float(), where)
        if self.clip == "before":
            boxes = box_ops.clip(boxes, images.sizes)
        found = self.suppress(boxes, values, labels, level, self.select.valid(boxes, values))
        return found if self.clip == "before" else replace(found, boxes=box_ops.clip(found.boxes, images.sizes))

    def with_counts(self, before: int, after: int) -> BoxTask:
        """The same task with other candidate counts: before suppression (each level) and after it."""
        return replace(self, select=replace(self.select, per_level=before), suppress=replace(self.suppress, top=after))


def _total(rows: Tensor, weight: Tensor, factor: Tensor, scale: float) -> Tensor:
    """Weighted sum of row losses (B, A); rows of weight 0 may hold anything, also infinity."""
    rows = torch.where(weight > 0, rows, torch.zeros_like(rows))
    return (rows * (weight * factor)).sum() * scale


def _of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """(B, A, 4) as it is; of (B, A, C, 4) the deltas of each row's own class."""
    if deltas.dim() == 3:
        return deltas
    index = labels[..., None, None].expand(-1, -1, 1, 4)
    return deltas.gather(2, index).squeeze(2)


def sampled(match: Match, index: Tensor) -> Match:
    """The rows (B, R) of a match."""
    return Match(match.gt.gather(1, index), match.positive.gather(1, index), match.ignored.gather(1, index))
