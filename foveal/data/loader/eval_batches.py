"""Builds one batch of images for evaluation, unchanged."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...errors import FovealError
from ...files.aliases import Ints
from .shared_records import PackedRecords, WorkerBatch


@dataclass(frozen=True, eq=False)
class EvalBatches:
    """The images ``indices`` in order, unchanged."""

    packed: PackedRecords
    indices: Ints
    batch: int

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __call__(self, epoch: int, batch: int, done: float, shared: bool) -> WorkerBatch:
        result = WorkerBatch()
        for index in self.indices[batch * self.batch : (batch + 1) * self.batch].tolist():
            try:
                result.pixels.append(torch.from_numpy(self.packed.image(index)))
                result.indices.append(index)
            except FovealError as error:
                result.skipped[index] = str(error)
        return result
