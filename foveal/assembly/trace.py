"""The trace of a forward pass: everything that its tasks decide, recorded by the calls that train and predict.

    with tracing() as trace:
        losses, detections = detector(images, targets, detect=True)
    trace.samplings[0].match  # which anchors are positive
    trace.selections[-1].candidates  # the (prior, class) pairs that went into NMS

Without a trace a task pays one ``is None`` test. Tensors are recorded as they are, without copies or device syncs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from torch import Tensor

from ..parts.postprocess import Candidates
from ..types import Boxes, Images, Match, Predictions, Priors


@dataclass(frozen=True)
class Selection:
    """One call of ``BoxTask.detect``: from the predictions at all priors to the boxes that remain."""

    predictions: Predictions
    priors: Priors
    images: Images
    candidates: Candidates  # S an image
    boxes: Tensor  # (B, S, 4) of the candidates, as they entered NMS
    kept: Boxes  # ``kept.rows`` are their indices among the S


@dataclass(frozen=True)
class Sampling:
    """One matching of priors with the objects, and the priors whose losses count."""

    priors: Priors
    match: Match
    sample: Tensor  # (B, A), 0 where a prior is not sampled


@dataclass
class Trace:
    """What a forward pass decided, in the order in which it did.

    The last of ``selections`` gives the detections; in a detector with an RPN the one before gives the proposals.
    ``samplings`` are those of the RPN, if there is one, and then of the last stage; where it samples before its head
    runs, the sampled RoIs follow as a sampling of their own. Decoder layers: the last one first.
    """

    selections: list[Selection] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    losses: bool = True  # False: the second stage's head does not run on sampled RoIs, which decides nothing


ACTIVE: ContextVar[Trace | None] = ContextVar("foveal.trace", default=None)  # of this thread


@contextmanager
def tracing(*, losses: bool = True) -> Iterator[Trace]:
    """Records what the detectors that are called inside decide, in this thread.

    ``losses``: whether those of a second stage are computed too where all has been decided without them.
    """
    trace = Trace(losses=losses)
    token = ACTIVE.set(trace)
    try:
        yield trace
    finally:
        ACTIVE.reset(token)
