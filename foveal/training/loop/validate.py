"""Validation: losses and AP from one pass over the images, each exactly once however many processes share them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ...assembly.detector import in_evaluation
from ...data.loader.loader import EvalLoader
from ...data.loader.shared_records import network_targets
from ...data.records.dataset import Dataset
from ...data.records.subsets import merged
from ...evaluation import DetectionTable, GroundTruth, Results, score_detections
from ...recipe import Recipe
from ...types import Detections
from .update import VALIDATION, derive_seed

PACE_BATCHES = 4  # enough for a guess before the first real pass


@dataclass(frozen=True)
class Validation:
    """What one pass found; the same in every process."""

    losses: dict[str, float]  # mean over images: ``loss`` and its parts
    results: dict[str, Any]  # the stable form of ``results.json``
    seconds: float

    @property
    def ap(self) -> float | None:
        value: float | None = self.results["AP"]
        return value


class Validator:
    """Scores a detector on one data set by the ``coco`` protocol."""

    def __init__(
        self, fabric: Fabric, dataset: Dataset, fit: Recipe, seed: int, batch: int, workers: int, split: str
    ) -> None:
        self.fabric, self.dataset, self.fit = fabric, dataset, fit
        self.seed, self.split, self.batch = seed, split, batch
        self.loader = EvalLoader(dataset, batch, workers=workers, rank=fabric.global_rank, world=fabric.world_size)

    def pace(self, detector: Any, learning: str | None = None) -> float:
        """Seconds of a whole pass, guessed from a few batches. The slowest process counts."""
        start = time.perf_counter()
        seen = self._pass(detector, lambda: None, PACE_BATCHES, learning)[2]
        spent = (time.perf_counter() - start) * len(self.dataset) / self.fabric.world_size / max(1, seen)
        return float(max(self._gathered(spent)))

    def __call__(
        self,
        detector: Any,
        check: Callable[[], None] = lambda: None,
        tell: Callable[[int, int], None] | None = None,
        learning: str | None = None,
    ) -> Validation:
        """One pass in evaluation mode. ``check`` runs before every batch and may raise; ``tell`` hears
        how many of how many images are done. ``learning``: the task whose losses alone count; None: all."""
        start, done = time.perf_counter(), itertools.count(0, self.batch * self.fabric.world_size)

        def before() -> None:
            check()
            if tell is not None:
                tell(min(next(done), len(self.dataset)), len(self.dataset))

        sums, found, seen = self._pass(detector, before, learning=learning)
        joined: dict[int, Detections] = {}
        losses: dict[str, float] = {}
        everybody = self._gathered((sums, found, seen))
        images = max(1, sum(n for _, _, n in everybody))
        for other_sums, other_found, _ in everybody:
            joined |= other_found
            for name, value in other_sums.items():
                losses[name] = losses.get(name, 0.0) + value / images
        losses = {"loss": sum(losses.values()), **losses}
        results = self._scored(joined, merges=detector.class_agnostic) if self.fabric.is_global_zero else None
        scores = cast(dict[str, Any], self.fabric.broadcast(results))
        return Validation(losses, scores, time.perf_counter() - start)

    def _scored(self, found: dict[int, Detections], *, merges: bool) -> dict[str, Any]:
        masks = any(d.masks is not None for d in found.values())
        truth = GroundTruth.of(merged(self.dataset) if merges else self.dataset, masks=masks)
        nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        ordered = DetectionTable.of(
            [found.get(i, nothing) for i in range(len(self.dataset))]
        )  # unreadable: nothing found
        results: Results = score_detections(truth, ordered, "coco", split=self.split)
        return results.to_dict()

    @torch.no_grad()
    def _pass(
        self, detector: Any, check: Callable[[], None], batches: int | None = None, learning: str | None = None
    ) -> tuple[dict[str, float], dict[int, Detections], int]:
        """Sums of losses over images, detections by image index, and the number of images."""
        sums: dict[str, Tensor] = {}
        found: dict[int, Detections] = {}
        rng = torch.Generator(self.fabric.device)
        options = {} if learning is None else {"learning": learning}
        with in_evaluation(detector):
            for batch in itertools.islice(self.loader.epoch(), batches):
                check()
                part = batch.indices
                records = [self.dataset.records[i] for i in part]
                boxes = [r.proposals for r in records if r.proposals is not None]  # all of them or none
                images = detector.prepare(batch.arrays, boxes or None)
                targets = network_targets(records, images, self.fit, masks=detector.has_masks)
                place = derive_seed(VALIDATION, self.seed, part[0])
                torch.manual_seed(place)
                rng.manual_seed(place)
                with self.fabric.autocast():
                    losses, detections = detector(images, targets, detect=True, rng=rng, **options)
                for name, value in losses.items():
                    weighted = value.float() * len(part)
                    sums[name] = sums[name] + weighted if name in sums else weighted
                found |= {i: d.cpu() for i, d in zip(part, detections, strict=True)}
        return {name: float(value) for name, value in sums.items()}, found, len(found)

    def _gathered(self, value: Any) -> list[Any]:
        """The value of every process, in order."""
        if self.fabric.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.fabric.world_size
        torch.distributed.all_gather_object(values, value)
        return values
