"""Detections in the forms of other libraries: COCO results, ``supervision``. Tensors in, records out, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import FovealError


class CocoMasks(Protocol):
    """Masks that can be written as COCO's run lengths, or as bitmaps (N, H, W)."""

    def to_coco(self) -> list[dict[str, Any]]: ...

    def dense(self) -> Any: ...


def with_masks(records: list[dict[str, Any]], masks: CocoMasks | None, key: str) -> list[dict[str, Any]]:
    """Each record with its mask as COCO's run lengths under ``key``, where there are masks."""
    if masks is None:
        return records
    return [record | {key: mask} for record, mask in zip(records, masks.to_coco(), strict=True)]


def to_coco(boxes: Tensor, scores: Tensor, category_ids: Sequence[int], image_id: int) -> list[dict[str, Any]]:
    """COCO results of boxes (N, 4) xyxy with scores (N,)."""
    rows = zip(boxes.tolist(), scores.tolist(), category_ids, strict=True)
    return [
        {"image_id": image_id, "category_id": k, "bbox": [b[0], b[1], b[2] - b[0], b[3] - b[1]], "score": s}
        for b, s, k in rows
    ]


def from_coco(
    results: Sequence[Mapping[str, Any]], classes: int, category_ids: Sequence[int] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, 4), scores (N,) and labels (N,) of one image's results, sorted by falling score.

    ``category_ids[label]`` is the dataset's own id; without it, label + 1 (``classes`` of them; 0: as many as there
    are). Raises :class:`FovealError` for results of several images and for an unknown category.
    """
    if len({row["image_id"] for row in results}) > 1:
        raise FovealError("these results are of several images", fix="Give those of one image_id")
    largest = max((int(row["category_id"]) for row in results), default=0)
    label = {k: i for i, k in enumerate(category_ids or range(1, 1 + (classes or largest)))}
    unknown = [row["category_id"] for row in results if row["category_id"] not in label]
    if unknown:
        raise FovealError(f"category_id {unknown[0]} is not one of {len(label)} known ones")
    rows = sorted(results, key=lambda row: -row["score"])
    boxes = torch.tensor([row["bbox"] for row in rows], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.tensor([float(row["score"]) for row in rows])
    labels = torch.tensor([label[row["category_id"]] for row in rows], dtype=torch.int64)
    return boxes.float(), scores, labels


def to_supervision(boxes: Tensor, scores: Tensor, labels: Tensor, masks: CocoMasks | None, names: Sequence[str]) -> Any:
    """``supervision.Detections``."""
    import supervision as sv

    classes = labels.cpu().numpy()
    return sv.Detections(
        xyxy=boxes.float().cpu().numpy(),
        confidence=scores.float().cpu().numpy(),
        class_id=classes,
        mask=None if masks is None else masks.dense(),
        data={"class_name": np.array([names[k] for k in classes], dtype=str)} if names else {},
    )


def from_supervision(other: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, 4), scores (N,) and labels (N,) of ``supervision.Detections``; missing scores become 1, labels 0."""
    n = len(other.xyxy)
    scores = torch.ones(n) if other.confidence is None else torch.as_tensor(other.confidence).float()
    labels = torch.zeros(n) if other.class_id is None else torch.as_tensor(other.class_id)
    return torch.as_tensor(other.xyxy).reshape(-1, 4).float(), scores, labels.long()
