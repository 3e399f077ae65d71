"""The overfitting of ``foveal check``: a detector trained on a few images must detect their objects."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.records.dataset import Dataset, Record

if TYPE_CHECKING:
    from ..assembly.detector import Spec
    from ..recipe import Recipe

LEARNED = 0.9  # AP50 on the training images that passes


@dataclass(frozen=True)
class Overfit:
    """How well a few images were overfitted."""

    images: int
    ap50: float | None
    first_loss: float | None
    last_loss: float | None

    @property
    def passed(self) -> bool:
        return self.ap50 is not None and self.ap50 >= LEARNED

    @property
    def verdict(self) -> str:
        """Which part is likely at fault."""
        if self.passed:
            return "learned"
        if self.first_loss is None or self.last_loss is None:
            return "no iteration was run: give it more time"
        if self.last_loss > 0.5 * self.first_loss:
            return (
                f"the loss hardly falls ({self.first_loss:.3f} to {self.last_loss:.3f}): learning rate, loss or "
                "matching; or too little time"
            )
        return (
            f"the loss falls ({self.first_loss:.3f} to {self.last_loss:.3f}) and the score does not follow: decoding, "
            "suppression; or too little time"
        )


def _undifficult(record: Record) -> Record:
    """The record with its difficult objects like the others, which are learned and scored."""
    return replace(record, difficult=np.zeros_like(record.difficult))


def overfit(
    spec: Spec,
    dataset: Dataset,
    *,
    count: int = 8,
    max_time: float = 300.0,
    device: str = "auto",
    epochs: int = 400,
    weights: str | Path | None = None,
    proposals: Sequence[str | Path] | None = None,
    parts: Sequence[type] = (),
) -> Overfit:
    """Trains on ``count`` images without augmentation and scores the same images.

    A recipe of several stages takes no time limit. It is trained anew, twice as long each time, until the images are
    overfitted or another run would not end within ``max_time`` or ``epochs``.

    ``weights``: a run or checkpoint to start from, as a training run would; ``proposals``: files of them;
    ``parts``: see :func:`foveal.load`. Raises :class:`~foveal.errors.FovealError` where no image has an object, and for
    proposals that do not fit.
    """
    from ..data.convert import convert
    from ..data.records.subsets import take
    from ..external_proposals.cache import fill_proposals
    from ..recipe import Constant, GradientStage, OnStoredMaps, OnWindows
    from ..report.read_run import read_record
    from ..training.run import train

    usable = [take(r, ~(r.crowd | r.ignore)) for r in dataset.records]
    few = replace(dataset, records=[_undifficult(r) for r in usable if len(r)][:count], split=None)
    several = len(spec.fit.stages) > 1
    # the batch counts windows, not images
    windows = any(isinstance(stage, OnWindows | OnStoredMaps) for stage in spec.fit.stages)
    batch = spec.fit.batch if windows else min(count, spec.fit.batch)
    fit = replace(
        spec.fit, augment=(), ema=None, schedule=Constant(), warmup_steps=min(20, spec.fit.warmup_steps), batch=batch,
        lr=spec.fit.scaled_lr(batch), val_every=epochs if several else 40, early_stop=None, difficult="learn",
    )  # fmt: skip
    if proposals is not None and spec.source is not None:
        fill_proposals(few, spec.source, proposals)  # rejects those that do not fit, with the names of the images
    with tempfile.TemporaryDirectory(prefix="foveal-check-") as folder:
        data = Path(folder) / "data"
        convert(few, data, "coco", link=True)

        def outcome(fit: Recipe, out: str, **limits: Any) -> Overfit:
            changed: Any = replace(spec, fit=fit)  # type: ignore[call-arg]  # every spec has it as a field
            train(
                changed, data=data, val=data, out=Path(folder) / out, device=device, weights=weights,
                proposals=proposals, parts=parts, tensorboard=False, **limits,
            )  # fmt: skip
            record = read_record(Path(folder) / out)
            losses = record.series("train", "loss")[1]
            last = record.results.get("last") or {}
            return Overfit(len(few), last.get("AP50"), losses[0] if losses else None, losses[-1] if losses else None)

        if not several:
            return outcome(fit, "run", epochs=epochs, max_time=max_time)
        equal = (replace(stage, epochs=None) if isinstance(stage, GradientStage) else stage for stage in fit.stages)
        fit = replace(fit, stages=tuple(equal))
        return _ever_longer(lambda n: outcome(replace(fit, epochs=n), f"run-{n}"), epochs, max_time)


def _ever_longer(run: Callable[[int], Overfit], epochs: int, max_time: float) -> Overfit:
    """The outcome of the last run of 5, 10, 20, ... epochs, as :func:`overfit` says."""
    length, end = min(5, epochs), time.monotonic() + max_time
    while True:
        began = time.monotonic()
        outcome = run(length)
        now = time.monotonic()
        if outcome.passed or length == epochs or now + 2 * (now - began) > end:
            return outcome
        length = min(2 * length, epochs)
