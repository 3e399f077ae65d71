"""DIoU-NMS against the loop that Darknet runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foveal.errors import UsageError
from foveal.parts.distance_nms import DistanceNMS
from foveal.parts.postprocess import NMS


def greedy(boxes: list[list[float]], scores: list[float], labels: list[int], iou: float, exponent: float) -> list[int]:
    """One box after the other, best first: ``diounms_sort`` of Darknet's box.c."""
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept: list[int] = []
    for j in order:
        if not any(labels[i] == labels[j] and measure(boxes[i], boxes[j], exponent) > iou for i in kept):
            kept.append(j)
    return kept


def measure(a: list[float], b: list[float], exponent: float) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, w) * max(0.0, h)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    centers = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    return shared / union - (centers / hull) ** exponent


def crowded(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, n, 2, generator=rng) * 30
    boxes = torch.cat([corner, corner + 20 + torch.rand(2, n, 2, generator=rng) * 20], -1)
    return boxes, torch.rand(2, n, generator=rng), torch.randint(3, (2, n), generator=rng)


@pytest.mark.parametrize(("n", "iou", "exponent"), [(1, 0.45, 0.6), (60, 0.45, 0.6), (60, 0.6, 1.0), (700, 0.45, 0.6)])
def test_the_result_is_darknets(n: int, iou: float, exponent: float) -> None:
    boxes, scores, labels = crowded(n, n)
    valid = scores > 0.2
    found = DistanceNMS(iou=iou, exponent=exponent, top=n)(boxes, scores, labels, torch.zeros(n).long(), valid)
    for i in range(2):
        at = valid[i].nonzero().flatten()
        rows = greedy(boxes[i, at].tolist(), scores[i, at].tolist(), labels[i, at].tolist(), iou, exponent)
        assert torch.equal(found.scores[i, found.valid[i]], scores[i, at[rows]])
        assert torch.equal(found.boxes[i, found.valid[i]], boxes[i, at[rows]])


def test_without_distance_it_is_nms() -> None:
    boxes, scores, labels = crowded(80, 1)
    level, valid = torch.zeros(80).long(), scores > 0
    plain = NMS(iou=0.5)(boxes, scores, labels, level, valid)
    far = DistanceNMS(iou=0.5, exponent=60.0)(boxes, scores, labels, level, valid)  # (d / c)^60 is nothing
    assert torch.equal(plain.scores, far.scores) and torch.equal(plain.valid, far.valid)
    none = DistanceNMS()(boxes, scores, labels, level, valid & False)
    assert not none.valid.any() and none.boxes.shape == (2, 80, 4)


def test_wrong_settings_are_rejected() -> None:
    with pytest.raises(UsageError, match="exponent=0"):
        DistanceNMS(exponent=0)
    with pytest.raises(UsageError, match="per is 'image'"):
        DistanceNMS(per="image")  # type: ignore[arg-type]
