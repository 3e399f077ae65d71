"""Validation: losses and AP from one pass over the images, each exactly once over all processes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ...assembly.detector import Detector, Spec, in_evaluation
from ...data.loader.loader import EvalLoader
from ...data.loader.shared_records import network_targets
from ...data.records.dataset import Dataset
from ...data.records.subsets import merged
from ...evaluation import DetectionTable, GroundTruth, Results, score_detections
from ...files.aliases import OnProgress
from ...runtime.progress import Console
from ...types import Detections
from .images import Drawing, drawings
from .log import Log
from .state import State
from .update import VALIDATION, derive_seed, ended

T = TypeVar("T")

PACE_BATCHES = 4  # enough for an estimate before the first complete pass


@dataclass(frozen=True)
class Validation:
    """The outcome of one pass; the same in every process, but for the drawings."""

    losses: dict[str, float]  # mean over images: ``loss`` and its parts
    results: dict[str, Any]  # as in ``results.json``
    seconds: float
    broken: float = 0.0  # share of the images whose losses are not finite
    drawings: tuple[Drawing, ...] = ()  # for TensorBoard, in the first process alone

    @property
    def ap(self) -> float | None:
        value: float | None = self.results["AP"]
        return value


class Validator:
    """Evaluates a detector on one dataset by the ``coco`` protocol."""

    def __init__(
        self,
        fabric: Fabric,
        dataset: Dataset,
        spec: Spec,
        seed: int,
        batch: int,
        workers: int,
        split: str,
        images: int = 0,
    ) -> None:
        """``images``: the number of images that are drawn for TensorBoard."""
        self.fabric, self.dataset, self.fit = fabric, dataset, spec.fit
        self.seed, self.split, self.batch = seed, split, batch
        self.images = images
        rank, world = fabric.global_rank, fabric.world_size
        self.loader = EvalLoader(dataset, batch, input=spec.input, workers=workers, rank=rank, world=world)

    def pace(self, detector: Detector, learning: str | None = None) -> float:
        """Seconds of a complete pass, estimated from a few batches. Uses the slowest process's time."""
        start = time.perf_counter()
        images = self._pass(detector, lambda: None, PACE_BATCHES, learning)[2]
        estimate = (time.perf_counter() - start) * len(self.dataset) / self.fabric.world_size / max(1, images)
        return float(max(self._gathered(estimate)))

    def __call__(
        self,
        detector: Detector,
        check: Callable[[], None] = lambda: None,
        on_progress: OnProgress | None = None,
        learning: str | None = None,
    ) -> Validation:
        """One pass in evaluation mode. ``check`` runs before every batch and may raise.

        ``learning``: the task whose losses alone count; None: all. With several processes all take the statistics of
        the first one's batch norms, which are the ones that are saved: each has its own since its last batch.
        """
        if self.fabric.world_size > 1:
            for buffer in detector.buffers():
                torch.distributed.broadcast(buffer, 0)
        start, done = time.perf_counter(), itertools.count(0, self.batch * self.fabric.world_size)

        def before_batch() -> None:
            check()
            if on_progress is not None:
                on_progress(min(next(done), len(self.dataset)), len(self.dataset))

        parts = self._gathered(self._pass(detector, before_batch, learning=learning))
        detections: dict[int, Detections] = {}
        losses: dict[str, float] = {}
        images = max(1, sum(count for _, _, count, _ in parts))
        for sums, part, _, _ in parts:
            detections |= part
            for name, value in sums.items():
                losses[name] = losses.get(name, 0.0) + value / images
        losses = {"loss": sum(losses.values()), **losses}
        results = self._evaluate(detections, detector.class_agnostic) if self.fabric.is_global_zero else None
        scores = cast(dict[str, Any], self.fabric.broadcast(results))
        broken = sum(count for _, _, _, count in parts) / images
        drawn: tuple[Drawing, ...] = ()
        if self.images and self.fabric.is_global_zero:
            with self.fabric.autocast():
                drawn = tuple(drawings(detector, self.dataset, self.images))
        return Validation(losses, scores, time.perf_counter() - start, broken, drawn)

    def _evaluate(self, detections: dict[int, Detections], class_agnostic: bool) -> dict[str, Any]:
        """Detections by image index -> results. An image that cannot be read has none."""
        masks = any(d.masks is not None for d in detections.values())
        truth = GroundTruth.of(merged(self.dataset) if class_agnostic else self.dataset, masks=masks)
        empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        table = DetectionTable.of([detections.get(i, empty) for i in range(len(self.dataset))])
        results: Results = score_detections(truth, table, "coco", split=self.split)
        return results.to_dict(intervals=True)

    @torch.no_grad()
    def _pass(
        self, detector: Detector, check: Callable[[], None], batches: int | None = None, learning: str | None = None
    ) -> tuple[dict[str, float], dict[int, Detections], int, float]:
        """Sums of losses over images, detections by image index, the number of images, and of those whose losses are
        not finite."""
        sums: dict[str, Tensor] = {}
        broken = torch.zeros((), device=self.fabric.device)
        detections: dict[int, Detections] = {}
        rng = torch.Generator(self.fabric.device)
        options = {} if learning is None else {"learning": learning}
        with in_evaluation(detector):
            for batch in itertools.islice(self.loader.epoch(), batches):
                check()
                records = [self.dataset.records[i] for i in batch.indices]
                proposals = [r.proposals for r in records if r.proposals is not None]  # of all images or of none
                images = detector.prepare(batch.arrays, proposals or None)
                targets = network_targets(records, images, self.fit, masks=detector.has_masks)
                seed = derive_seed(VALIDATION, self.seed, batch.indices[0])
                torch.manual_seed(seed)
                rng.manual_seed(seed)
                losses: dict[str, Tensor]
                with self.fabric.autocast():
                    losses, answers = detector(images, targets, detect=True, rng=rng, **options)
                finite = torch.stack([value.float() for value in losses.values()]).isfinite().all()
                broken += torch.where(finite, 0.0, float(len(records)))
                for name, value in losses.items():
                    weighted = value.float() * len(records)
                    sums[name] = sums[name] + weighted if name in sums else weighted
                detections |= {i: d.cpu() for i, d in zip(batch.indices, answers, strict=True)}
        return {name: float(value) for name, value in sums.items()}, detections, len(detections), float(broken)

    def record(
        self,
        validation: Validation,
        state: State,
        name: str,
        epoch: int,
        log: Log,
        console: Console,
        left: float | None = None,
    ) -> None:
        """Writes a validation into the state and the log, and prints a line that begins with ``name``.

        Raises :class:`NonFiniteLoss` where no image has finite losses: the weights are of no use.
        """
        if validation.broken >= 1:
            message = f"the losses of all validation images are not finite after iteration {state.updates}"
            raise ended(log.path.parent, message)
        best = state.add_results(validation.results, self.fit.keep, sound=not validation.broken)
        scores = {k: v for k, v in validation.results.items() if isinstance(v, (int, float)) and k != "images"}
        masks = validation.results.get("masks", {})
        scores |= {f"masks.{k}": v for k, v in masks.items() if isinstance(v, float)}
        log.write(epoch=epoch, step=state.updates, split="val", **validation.losses, **scores)
        log.images(validation.drawings, state.updates)
        ap = "undefined" if validation.ap is None else f"{validation.ap:.4f}"
        line = f"{name}: validation loss {validation.losses['loss']:.4f}, AP {ap}" + (" (best so far)" if best else "")
        if validation.broken:
            line += f" (not finite for {validation.broken:.0%} of the images: not kept as best)"
        console.print(", ".join(filter(None, (line, console.epoch_summary(left)))))

    def _gathered(self, value: T) -> list[T]:
        """The value of every process, in order."""
        if self.fabric.world_size == 1:
            return [value]
        values = [value] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values
