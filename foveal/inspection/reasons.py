"""What became of every candidate of one image: kept, or dropped for exactly one of seven reasons.

Letters: A priors, C classes, S pairs that the selection took, N boxes that remain. Everything is derived afterwards
from a :class:`~foveal.assembly.trace.Selection`; the calls that predict only record what they computed anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..assembly.task import BoxTask
from ..assembly.trace import Selection
from ..boxes import pairwise_iou
from ..files.aliases import Bools, Floats, Ints
from ..parts.distance_nms import DistanceNMS
from ..parts.postprocess import NMS

CHUNK = 256  # removed boxes compared with all that remain at a time


class Reason(IntEnum):
    """What became of a candidate, a pair of a prior and a class."""

    KEPT = 0
    SCORE = 1  # its score is not above the threshold
    PER_LEVEL = 2  # its level had as many better candidates as it may have
    PER_CLASS = 3  # its class had
    SMALL = 4  # its box is smaller than ``select.min_size``
    NOT_FINITE = 5  # its box or score is infinite or NaN
    NMS = 6  # a better box of its group overlaps it too much
    TOP = 7  # the image had as many better boxes as it may have


NO_CANDIDATE = 255  # the pair is none: a prior that does not exist, or a class that is not its prior's best (DETR)
REASON_TEXTS = {
    Reason.KEPT: "kept",
    Reason.SCORE: "score below the threshold",
    Reason.PER_LEVEL: "beyond the limit of its level",
    Reason.PER_CLASS: "beyond the limit of its class",
    Reason.SMALL: "box too small",
    Reason.NOT_FINITE: "not finite",
    Reason.NMS: "removed by NMS",
    Reason.TOP: "beyond the limit of detections",
}


@dataclass(frozen=True, eq=False)
class Fates:
    """The fate of every candidate of one image; and of the S that the selection took, in its order, in detail."""

    scores: NDArray[np.float32]  # (A, C)
    reasons: NDArray[np.uint8]  # (A, C) a Reason, or NO_CANDIDATE
    prior: Ints  # (S,)
    label: Ints  # (S,)
    level: Ints  # (S,)
    score: NDArray[np.float32]  # (S,)
    box: NDArray[np.float32]  # (S, 4) network pixels, as it entered NMS
    reason: NDArray[np.uint8]  # (S,)
    by: Ints  # (S,) the row whose box removed it in NMS; -1: none did
    overlap: Floats  # (S,) with that box; 0 where there is none
    kept: Ints  # (N,) the rows that remain, by falling score

    def count(self) -> dict[Reason, int]:
        """How many candidates met each fate; the sum is the number of candidates."""
        return {reason: int(np.count_nonzero(self.reasons == reason)) for reason in Reason}


def fates_of(task: BoxTask, selection: Selection, image: int = 0) -> Fates:
    """The fates in one image of a recorded selection. ``task``: the one whose call recorded it."""
    values, prior, labels, level = selection.candidates
    scores = task.scores(selection.predictions)[image]
    is_candidate = _candidates(task, selection, scores, image)
    real = (values[image] > -torch.inf) | values[image].isnan()  # fewer than S: the others are padding
    rows = real.nonzero().squeeze(1)
    box, score = selection.boxes[image, rows].float(), values[image, rows]
    reason = _before_nms(task, box, score)
    kept, by, overlap = _suppressed(task, selection, image, rows, reason)

    score_all = scores.float().cpu().numpy()
    reasons = _unselected(task, score_all)
    reasons[~is_candidate.cpu().numpy()] = NO_CANDIDATE
    prior_np, label_np = prior[image, rows].cpu().numpy(), labels[image, rows].cpu().numpy()
    reasons[prior_np, label_np] = reason
    return Fates(
        score_all, reasons, prior_np, label_np, level[rows].cpu().numpy(), score.cpu().numpy(), box.cpu().numpy(),
        reason, by, overlap, kept,
    )  # fmt: skip


def _candidates(task: BoxTask, selection: Selection, scores: Tensor, image: int) -> Tensor:
    """(A, C) bool: the pairs that may be selected at all."""
    logits, valid = selection.predictions.logits[image], selection.priors.valid
    pairs = torch.ones_like(scores, dtype=torch.bool)
    if task.select.best_class:
        ranked = logits if task.cls_loss.monotone and task.quality is None else scores  # as the task compares them
        best = ranked.max(-1, keepdim=True).indices
        pairs = torch.zeros_like(pairs).scatter(1, best, True)
    return pairs if valid is None else pairs & valid[image][:, None]


def _threshold(task: BoxTask) -> float:
    """A candidate's score is above this."""
    select = task.select
    everything = select.per_level is None and select.per_class is None
    return select.score if select.score > 0 or everything else -np.inf


def _unselected(task: BoxTask, scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(A, C) the reasons of pairs that were not selected."""
    limit = Reason.PER_LEVEL if task.select.per_class is None else Reason.PER_CLASS
    reasons = np.where(scores > np.float32(_threshold(task)), limit, Reason.SCORE).astype(np.uint8)
    reasons[np.isnan(scores)] = Reason.NOT_FINITE
    return reasons


def _before_nms(task: BoxTask, box: Tensor, score: Tensor) -> NDArray[np.uint8]:
    """(S,) the reasons of the selected pairs; KEPT for those that enter NMS."""
    valid = task.select.valid(box[None], score[None])[0].cpu().numpy()
    finite = (box.isfinite().all(-1) & ~score.isnan()).cpu().numpy()
    low = ~(score > _threshold(task)).cpu().numpy() & ~score.isnan().cpu().numpy()
    small = np.where(finite, Reason.SMALL, Reason.NOT_FINITE)
    return np.where(low, Reason.SCORE, np.where(valid, Reason.KEPT, small)).astype(np.uint8)


def _suppressed(
    task: BoxTask, selection: Selection, image: int, rows: Tensor, reason: NDArray[np.uint8]
) -> tuple[Ints, Ints, Floats]:
    """Writes what NMS and the limit of detections removed into ``reason`` (S,); returns the rows kept (N,), and for
    each row the one that removed it (S,), -1 for none, and their overlap (S,)."""
    values, _, labels, level = selection.candidates
    by, overlap = np.full(len(rows), -1), np.zeros(len(rows))
    kept = _position(rows, _rows_of(selection, image))
    entered = np.flatnonzero(reason == Reason.KEPT)
    if not len(entered):
        return kept, by, overlap
    at = rows[torch.from_numpy(entered).to(rows.device)]
    part = selection.boxes[image, at].float(), values[image, at], labels[image, at], level[at]
    survivors = _survivors(task, *part)
    reason[entered] = Reason.NMS
    reason[entered[survivors]] = Reason.TOP
    reason[kept] = Reason.KEPT
    removed = np.flatnonzero(~np.isin(np.arange(len(entered)), survivors))
    who, how_much = _removers(task, *part, survivors, removed)
    by[entered[removed]], overlap[entered[removed]] = entered[who], how_much
    return kept, by, overlap


def _rows_of(selection: Selection, image: int) -> Tensor:
    """(N,) the candidates that remain, by falling score."""
    kept = selection.kept
    if kept.rows is not None:
        return kept.rows[image][kept.valid[image]]
    wanted = zip(kept.scores[image].tolist(), kept.labels[image].tolist(), kept.valid[image].tolist(), strict=True)
    values, labels = selection.candidates.values[image].tolist(), selection.candidates.labels[image].tolist()
    free = {i: pair for i, pair in enumerate(zip(values, labels, strict=True))}
    found = []  # a suppression of one's own that does not return the candidates: the first of the same score and class
    for score, label, valid in wanted:
        same = next((i for i, pair in free.items() if pair == (score, label)), None) if valid else None
        if same is not None:
            found.append(same)
            del free[same]
    return torch.tensor(found, dtype=torch.int64, device=selection.boxes.device)


def _position(rows: Tensor, some: Tensor) -> Ints:
    """The positions of ``some`` in ``rows``, which rise."""
    return torch.searchsorted(rows, some).cpu().numpy()


def _survivors(task: BoxTask, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor) -> Ints:
    """The candidates that NMS leaves, by falling score, whatever the limit of detections."""
    everything = replace(task.suppress, top=len(boxes))
    valid = torch.ones_like(labels, dtype=torch.bool)
    left = everything(boxes[None], scores[None], labels[None], level, valid[None])
    rows = torch.arange(len(boxes), device=boxes.device) if left.rows is None else left.rows[0][left.valid[0]]
    return rows.cpu().numpy()


def _removers(
    task: BoxTask, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, survivors: Ints, removed: Ints
) -> tuple[Ints, Floats]:
    """For each removed box the survivor that removed it, the first by falling score that overlaps it too much, and
    their overlap."""
    rule = task.suppress
    iou, per = 0.0, "all"
    if isinstance(rule, NMS | DistanceNMS):
        iou, per = rule.iou, str(rule.per)
    group = {"class": labels, "level": level, "all": torch.zeros_like(labels)}[per].cpu().numpy()
    order = np.empty(len(boxes), np.int64)
    order[np.argsort(-scores.cpu().numpy().astype(np.float64), kind="stable")] = np.arange(len(boxes))
    who, how_much = np.zeros(len(removed), np.int64), np.zeros(len(removed))
    wide = boxes.double().cpu()
    for one in np.unique(group[removed]):
        left, places = survivors[group[survivors] == one], np.flatnonzero(group[removed] == one)
        for start in range(0, len(places), CHUNK):
            at = places[start : start + CHUNK]
            part = removed[at]
            close = pairwise_iou(wide[left], wide[part])
            if isinstance(rule, DistanceNMS):
                close -= rule.distance(wide[left][:, None], wide[part][None])
            value = np.where(order[left][:, None] < order[part], close.numpy(), -np.inf)
            first = np.where((value > iou).any(0), (value > iou).argmax(0), value.argmax(0))  # or a rounding below
            who[at] = left[first]
            how_much[at] = close.numpy()[first, np.arange(len(part))]
    return who, how_much


def is_limit(reasons: NDArray[np.uint8]) -> Bools:
    """Whether each reason is a limit: of a level, a class, the detections, or of the size of boxes."""
    return np.isin(reasons, (Reason.PER_LEVEL, Reason.PER_CLASS, Reason.SMALL, Reason.TOP))
