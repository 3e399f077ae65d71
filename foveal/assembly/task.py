"""A detection task: assignment, sampling and losses in training; decoding, scores and NMS in inference.

A task owns no weights. It is the field ``task`` of a one-stage spec, ``rpn`` and ``roi`` of a two-stage one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import UsageError
from ..parts.coders import Coder, Delta
from ..parts.losses.box import BoxLoss, SmoothL1
from ..parts.losses.classification import ClassLoss
from ..parts.losses.quality import Quality
from ..parts.matching.matcher import Matcher
from ..parts.postprocess import NMS, Select, Suppress
from ..parts.samplers import All, Sampler
from ..types import Boxes, Detections, Images, Match, Predictions, Priors, Targets
from .arrays import paste_masks
from .trace import ACTIVE, Sampling, Selection


@dataclass(frozen=True)
class Outputs:
    """The result of the network: all that the task's matching, losses and decoding are computed from."""

    features: list[Tensor]  # (B, c, H, W) each, finest first
    layers: list[Predictions]  # one entry a decoder layer, the final predictions last
    priors: Priors


@dataclass(frozen=True)
class BoxTask:
    """One stage of classification and box regression over a set of priors."""

    matcher: Matcher  # the object that each prior is assigned to
    cls_loss: ClassLoss  # owns the number of logits, the scores, the prior bias and its normalizer
    box_loss: BoxLoss = SmoothL1()  # compares deltas or boxes; owns its normalizer
    sampler: Sampler = All()  # which priors count in the losses
    coder: Coder = Delta()  # boxes <-> deltas
    quality: Quality | None = None  # objectness or center-ness, where the head predicts one
    select: Select = Select()  # candidates for detection: score threshold, top-k of each level
    suppress: Suppress = NMS()  # removes duplicates, keeps the best
    clip: Literal["before", "after"] = "before"  # boxes are clipped to the image before NMS or after it

    def __post_init__(self) -> None:
        if self.clip not in ("before", "after"):
            raise UsageError(f"BoxTask: clip is {self.clip!r}, not one of before, after")

    @property
    def dilutes_boxes(self) -> bool:
        """Whether the box loss of the few positives is divided by the number of all priors."""
        return self.sampler.keeps_all and self.box_loss.normalizer.counts_negatives

    # ------------------------------------------------------------------------------------------- training
    def match(self, predictions: Predictions, priors: Priors, targets: Targets) -> Match:
        """Assigns an object (or none) to every prior; nothing here carries a gradient."""
        return self.matches([predictions], priors, targets)[0]

    @torch.no_grad()
    def matches(self, layers: Sequence[Predictions], priors: Priors, targets: Targets) -> list[Match]:
        """The match of each decoder layer; a matcher that needs the outputs is called once for all of them."""
        if not self.matcher.needs_outputs:
            return [self.matcher(priors, targets)] * len(layers)
        times = len(layers)
        if times > 1:
            priors, targets = priors.repeated(times), targets.repeated(times)
        deltas = torch.cat([layer.deltas.detach().float() for layer in layers])
        scores = self.cls_loss.scores(torch.cat([layer.logits.detach().float() for layer in layers]))
        boxes = self.coder.decode(deltas, priors.places(len(deltas)))
        match = self.matcher(priors, targets, (boxes, scores))
        return match.chunk(times) if times > 1 else [match]

    def losses(
        self,
        predictions: Predictions,
        priors: Priors,
        targets: Targets,
        rng: torch.Generator | None = None,
        *,
        match: Match | None = None,
        sample: Tensor | None = None,
        seen: int = 0,
    ) -> dict[str, Tensor]:
        """``{"cls", "box"[, "quality"]}``, each a scalar; their plain sum is the loss.

        ``match`` and ``sample`` (B, A), the sampled priors, are given where sampling came before the head. ``seen``:
        images trained on so far.
        """
        if match is None:
            match = self.match(predictions, priors, targets)
        class_losses = self._class_losses(predictions, targets, match)  # (B, A)
        if sample is None:
            ranked = class_losses.detach() if self.sampler.needs_losses else None
            sample = self.sampler.sample(match, priors, ranked, rng)
        trace = ACTIVE.get()
        if trace is not None:
            trace.samplings.append(Sampling(priors, match, sample))
        sample = sample.to(class_losses.dtype)
        by_class = self.cls_loss.prior_weight(match.positive)
        weight = sample if by_class is None else sample * by_class
        factor = self.cls_loss.normalizer(weight, match.positive)
        losses = {"cls": _total(class_losses, weight, factor, self.cls_loss.weight)}

        prior_boxes, truth, deltas = self._regression(predictions, priors, targets, match)
        box_losses = self.box_loss(deltas, prior_boxes, truth, self.coder)  # (B, A)
        counted = sample
        if self.quality is not None and predictions.quality is not None:
            decoded = self.coder.decode(deltas.detach(), prior_boxes) if self.quality.needs_boxes else None
            losses["quality"] = self.quality.loss(predictions.quality, decoded, priors, targets, match, sample)
            by_quality = self.quality.prior_weight(priors, truth, match)
            counted = sample if by_quality is None else sample * by_quality
        factor = self.box_loss.normalizer(counted, match.positive)
        by_size = self.box_loss.prior_weight(prior_boxes, truth)
        weight = match.positive if by_size is None else match.positive * by_size
        background = self.box_loss.background(seen)
        weight = weight if background == 0 else weight + background * ~match.positive
        losses["box"] = _total(box_losses, counted * weight, factor, self.box_loss.weight)
        return losses

    @torch.no_grad()
    def prior_losses(self, predictions: Predictions, priors: Priors, targets: Targets, match: Match) -> Tensor:
        """The loss of each prior before any normalizer (B, A): its class loss, and the box loss of a positive one.

        OHEM ranks proposals by it (Shrivastava et al. 2016).
        """
        prior_boxes, truth, deltas = self._regression(predictions, priors, targets, match)
        box_losses = self.box_loss(deltas, prior_boxes, truth, self.coder) * self.box_loss.weight
        by_size = self.box_loss.prior_weight(prior_boxes, truth)
        box_losses = box_losses if by_size is None else box_losses * by_size
        class_losses = self._class_losses(predictions, targets, match) * self.cls_loss.weight
        return class_losses + torch.where(match.positive, box_losses, 0.0)

    def _class_losses(self, predictions: Predictions, targets: Targets, match: Match) -> Tensor:
        """The class loss of every prior (B, A)."""
        labels = targets.labels.gather(1, match.gt)
        losses = self.cls_loss(predictions.logits, labels, match.positive)
        extra = self.cls_loss.extra_class_loss(predictions.logits, targets.labels, match)
        return losses if extra is None else losses + extra

    @staticmethod
    def _regression(
        predictions: Predictions, priors: Priors, targets: Targets, match: Match
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The boxes of the priors (B, A, 4 or 9), the targets they regress to and their deltas (B, A, 4)."""
        labels = targets.labels.gather(1, match.gt)
        prior_boxes = priors.places(len(labels))
        truth = targets.boxes.gather(1, match.gt[..., None].expand(-1, -1, 4))
        # a prior without an object regresses to itself, so that no log or division meets a bad box
        truth = torch.where(match.positive[..., None], truth, prior_boxes[..., :4])
        return prior_boxes, truth, _of_class(predictions.deltas.float(), labels)

    # ------------------------------------------------------------------------------------------ inference
    @torch.no_grad()
    def detect(self, predictions: Predictions, priors: Priors, images: Images) -> Boxes:
        """The detections of each image in network pixels, clipped, by descending score."""
        on_logits = self.cls_loss.monotone and self.quality is None
        scores = predictions.logits if on_logits else self.scores(predictions)
        if priors.valid is not None:
            scores = scores.masked_fill(~priors.valid[..., None], -torch.inf)
        candidates = self.select.candidates(scores, priors.counts, self.cls_loss.scores if on_logits else None)
        values, index, labels, level = candidates
        boxes = self.decoded(predictions, priors, index, labels)
        if self.clip == "before":
            boxes = clip(boxes, images.sizes)
        kept = self.suppress(boxes, values, labels, level, self.select.valid(boxes, values))
        trace = ACTIVE.get()
        if trace is not None:
            trace.selections.append(Selection(predictions, priors, images, candidates, boxes, kept))
        return kept if self.clip == "before" else replace(kept, boxes=clip(kept.boxes, images.sizes))

    def scores(self, predictions: Predictions) -> Tensor:
        """The score of every (prior, class) pair (B, A, C) float32."""
        scores = self.cls_loss.scores(predictions.logits.float())
        if self.quality is None or predictions.quality is None:
            return scores
        return self.quality.scores(scores, predictions.quality.float())

    def decoded(self, predictions: Predictions, priors: Priors, index: Tensor, labels: Tensor) -> Tensor:
        """The boxes (B, S, 4), not clipped, of the pairs of the priors ``index`` (B, S) and classes ``labels``."""
        deltas = predictions.deltas
        if deltas.dim() == 4:
            classes = deltas.shape[2]
            flat = (index * classes + labels)[..., None].expand(-1, -1, 4)
            deltas = deltas.flatten(1, 2).gather(1, flat)
        else:
            deltas = deltas.gather(1, index[..., None].expand(-1, -1, 4))
        places = priors.places(len(index))
        places = places.gather(1, index[..., None].expand(-1, -1, places.shape[-1]))
        return self.coder.decode(deltas.float(), places)

    def with_counts(self, before: int, after: int) -> BoxTask:
        """The same task with other candidate counts: before suppression (each level) and after it."""
        return replace(self, select=replace(self.select, per_level=before), suppress=replace(self.suppress, top=after))


def to_detections(
    boxes: Boxes, images: Images, names: tuple[str, ...], mask_threshold: float | None = None
) -> list[Detections]:
    """Network pixels -> original pixels, clipped to the image, one object per image. The only transfer to the CPU."""
    original = clip(images.to_original(boxes.boxes), images.original)
    counts: list[int] = boxes.valid.sum(1).tolist()
    masks = paste_masks(boxes, original, images, counts, mask_threshold) if boxes.masks is not None else None
    return [
        Detections(original[i, :n], boxes.scores[i, :n], boxes.labels[i, :n], names, masks[i] if masks else None)
        for i, n in enumerate(counts)
    ]


def merge_classes(targets: Targets) -> Targets:
    """The targets with a single class ``object``, as a proposal network learns them."""
    return Targets(
        targets.boxes,
        torch.zeros_like(targets.labels),
        targets.valid,
        targets.ignore,
        targets.any_ignore,
        targets.masks,
    )


def without_validity(priors: Priors) -> Priors:
    """Priors without their training filter: in inference those that cross the image border are used too."""
    return Priors(priors.boxes, priors.counts, grid=priors.grid)


def _total(losses: Tensor, weight: Tensor, factor: Tensor, scale: float) -> Tensor:
    """Weighted sum of the priors' losses (B, A); those of weight 0 may have any value, even infinity."""
    losses = torch.where(weight > 0, losses, torch.zeros_like(losses))
    return (losses * (weight * factor)).sum() * scale


def _of_class(deltas: Tensor, labels: Tensor) -> Tensor:
    """Deltas (B, A, 4) of each prior's class, ``labels`` (B, A); class-agnostic ones are returned unchanged."""
    if deltas.dim() == 3:
        return deltas
    index = labels[..., None, None].expand(-1, -1, 1, 4)
    return deltas.gather(2, index).squeeze(2)


def sampled(match: Match, index: Tensor) -> Match:
    """The part of a match that belongs to the priors ``index`` (B, R)."""
    return Match(match.gt.gather(1, index), match.positive.gather(1, index), match.ignored.gather(1, index))


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clips boxes (B, N, 4) to images of ``sizes`` (B, 2) = height, width; coordinates lie in [0, side]."""
    limit = sizes.flip(-1).to(boxes.dtype).repeat(1, 2)[:, None]  # (B, 1, 4): width, height, width, height
    return torch.minimum(torch.maximum(boxes, boxes.new_zeros(())), limit)


@contextmanager
def single_value_explained() -> Iterator[None]:
    """Raises :class:`UsageError` where a norm has one value alone: a 1 x 1 map of a batch of one image."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        message = "a norm has a single value per channel: the batch is one image with a feature map of 1 x 1"
        raise UsageError(message, fix="Use larger images or, in training, batches of two or more") from error
