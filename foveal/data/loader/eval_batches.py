"""Builds one batch of images for evaluation, unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...errors import FovealError
from ...files.aliases import Ints
from .shared_records import PackedRecords, WorkerBatch


@dataclass(frozen=True, eq=False)
class EvalBatches:
    """Images, unchanged, in batches of their indices."""

    packed: PackedRecords
    batches: Sequence[Ints]

    def __len__(self) -> int:
        return len(self.batches)

    def __call__(self, epoch: int, batch: int, done: float, shared: bool) -> WorkerBatch:
        result = WorkerBatch()
        for index in self.batches[batch].tolist():
            try:
                result.pixels.append(torch.from_numpy(self.packed.image(index)))
                result.indices.append(index)
            except FovealError as error:
                result.skipped[index] = str(error)
        return result
