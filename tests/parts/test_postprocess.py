"""Candidates against a full sort, suppression against torchvision's batched_nms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops.boxes import _batched_nms_vanilla

from foveal import presets
from foveal.errors import UsageError
from foveal.parts import postprocess as nms_module
from foveal.parts import postprocess as suppress_module
from foveal.parts.postprocess import NMS, NoNMS, Select, report_nonfinite, suppress_on_device, top_values
from foveal.types import Boxes


class Ops(TorchDispatchMode):
    """Counts the operations that would sync with a GPU, except NMS."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs: list[str] = []
        self.nms = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        self.nms += name == "nms"
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal") or any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in indices
        ):
            self.syncs.append(name)
        return func(*args, **(kwargs or {}))


# ------------------------------------------------------------------------------------------------- candidates
@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 1, 4000), (3, 7, 90), (2, 5000, 1), (2, 700, 91), (1, 13, 3)])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_top_values_equals_a_full_sort(shape: tuple[int, int, int], k: int) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)).flatten(1)
    found, place = top_values(values, k)
    expected = values.sort(1, descending=True).values[:, :k]
    assert torch.equal(found, expected)
    assert torch.equal(values.gather(1, place), expected)
    assert all(len(set(row)) == len(row) for row in place.tolist())


def test_candidates_are_the_best_pairs_of_each_level() -> None:
    rng = torch.Generator().manual_seed(0)
    counts = (900, 200, 3)
    logits = torch.randn(2, sum(counts), 5, generator=rng)
    values, rows, labels, level = Select(0.05, 100).candidates(logits, counts, torch.sigmoid)
    assert level.tolist() == [0] * 100 + [1] * 100 + [2] * 15
    start = 0
    for i, count in enumerate(counts):
        part = logits[:, start : start + count].sigmoid().flatten(1).sort(1, descending=True).values
        mine = level == i
        assert torch.equal(values[:, mine], part[:, :100])
        assert rows[:, mine].min() >= start and rows[:, mine].max() < start + count
        start += count
    batch = torch.arange(2)[:, None]
    assert torch.equal(values, logits[batch, rows, labels].sigmoid())
    pairs = rows * 5 + labels
    assert all(len(set(p)) == len(p) for p in pairs.tolist())


def test_all_candidates_above_the_score() -> None:
    rng = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 40, 6, generator=rng) * torch.tensor([0.9, 0.06, 0.01])[:, None, None]
    select = Select(0.05, None)
    values, rows, labels, _ = select.candidates(scores, (40,))
    keep = select.valid(torch.zeros(3, values.shape[1], 4), values)
    for i in range(3):
        found = {(r, c) for r, c, k in zip(rows[i].tolist(), labels[i].tolist(), keep[i].tolist(), strict=True) if k}
        expected = {tuple(p) for p in (scores[i] > 0.05).nonzero().tolist()}
        assert found == expected
        assert int(keep[i].sum()) == len(expected)
    assert not keep[2].any() and keep[0].any()


def test_all_candidates_need_a_single_level() -> None:
    with pytest.raises(UsageError, match="single level"):
        Select(0.05, None).candidates(torch.rand(1, 4, 2), (2, 2))


def test_excluded_priors_are_not_valid() -> None:
    scores = torch.tensor([[[0.9], [-torch.inf], [0.8]]])
    select = Select(0.0, 3)
    for to_scores in (None, torch.sigmoid):
        values, _, _, _ = select.candidates(scores, (3,), to_scores)
        assert select.valid(torch.zeros(1, 3, 4), values).tolist() == [[True, True, False]]


def test_valid_uses_the_torchvision_threshold_and_minimum_size() -> None:
    scores = torch.tensor([[0.05, 0.051, 0.9, 0.9]])
    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 0.99], [0, 0, 1, 1]]])
    assert Select(0.05, min_size=1.0).valid(boxes, scores).tolist() == [[False, True, False, True]]


# ------------------------------------------------------------------------------------------------ suppression
def clustered(batch: int, count: int, seed: int, ties: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    objects = max(1, count // 12)
    which = torch.randint(objects, (batch, count), generator=rng)
    center, side = torch.rand(objects, 2, generator=rng) * 400, torch.rand(objects, 2, generator=rng) * 80 + 8
    noise = torch.randn(2, batch, count, 2, generator=rng) * 0.1
    c, s = center[which] + noise[0] * side[which], side[which] * torch.exp(noise[1])
    scores = torch.rand(batch, count, generator=rng)
    labels = torch.randint(9, (objects,), generator=rng)[which]
    return torch.cat([c - s / 2, c + s / 2], -1), (scores * 20).round() / 20 if ties else scores, labels


def expected(boxes: Tensor, scores: Tensor, group: Tensor, valid: Tensor, iou: float, top: int) -> Tensor:
    """Indices that torchvision keeps in one image; ties in the order of the boxes."""
    rows = valid.nonzero()[:, 0]
    kept = rows[_batched_nms_vanilla(boxes[rows], scores[rows], group[rows], iou).sort().values]
    return kept[scores[kept].argsort(descending=True, stable=True)][:top]


def check(found: Boxes, boxes: Tensor, scores: Tensor, labels: Tensor, group: Tensor, valid: Tensor, nms: NMS) -> None:
    for i in range(len(boxes)):
        rows = expected(boxes[i], scores[i], group[i], valid[i], nms.iou, nms.top)
        n = int(found.valid[i].sum())
        assert n == len(rows) and bool(found.valid[i, :n].all())
        assert torch.equal(found.boxes[i, :n], boxes[i, rows])
        assert torch.equal(found.scores[i, :n], scores[i, rows])
        assert torch.equal(found.labels[i, :n], labels[i, rows])
        assert found.boxes[i, n:].abs().sum() == 0 and found.scores[i, n:].sum() == 0


@pytest.mark.parametrize("device_form", [False, True])
@pytest.mark.parametrize("per", ["class", "level", "all"])
@pytest.mark.parametrize(("batch", "count", "top"), [(1, 1, 5), (3, 50, 100), (2, 700, 60), (4, 300, 300)])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_batched_nms(
    monkeypatch: pytest.MonkeyPatch, device_form: bool, per: Any, batch: int, count: int, top: int, ties: bool
) -> None:
    if device_form:
        monkeypatch.setattr(suppress_module, "suppress_on_cpu", suppress_on_device)
        monkeypatch.setattr(nms_module, "DEVICE_BOXES", 2 * count)  # several calls for four images
    nms = NMS(0.5, per, top=top)
    for seed in range(6):
        boxes, scores, labels = clustered(batch, count, seed, ties)
        valid = torch.rand(batch, count, generator=torch.Generator().manual_seed(seed)) < 0.8
        valid[-1] = seed % 2 == 0
        level = torch.arange(count) * 3 // count
        group = {"class": labels, "level": level.expand(batch, -1), "all": labels * 0}[per]
        check(nms(boxes, scores, labels, level, valid), boxes, scores, labels, group, valid, nms)


@pytest.mark.parametrize("pairs", [0, 10**12])
def test_both_cpu_implementations_agree(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    monkeypatch.setattr(nms_module, "PAIRS_PER_CALL", pairs)
    boxes, scores, labels = clustered(2, 600, 0, ties=True)
    valid, level, nms = torch.ones(2, 600, dtype=torch.bool), torch.zeros(600, dtype=torch.int64), NMS(0.4, top=600)
    check(nms(boxes, scores, labels, level, valid), boxes, scores, labels, labels, valid, nms)


@pytest.mark.parametrize("cases", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_stopping_at_top_keeps_what_all_candidates_keep(cases: int) -> None:
    """Random numbers, groups, thresholds, tops and ties; whole coordinates and eighths, where fp32 and fp64 agree."""
    rng = torch.Generator().manual_seed(cases)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=rng))

    for _ in range(cases):
        count, groups, area = number(1, 250), number(1, 12), number(5, 200)
        corner = torch.randint(area, (1, count, 2), generator=rng)
        side = torch.randint(1, 60, (1, count, 2), generator=rng)
        boxes = torch.cat([corner, corner + side], -1).float()
        scores = torch.randint(1, number(3, 10_000), (1, count), generator=rng) / 10_000
        labels = torch.randint(groups, (1, count), generator=rng)
        valid = torch.rand(1, count, generator=rng) < 0.9
        nms = NMS(number(1, 8) / 8, top=number(1, 60))
        found = nms(boxes, scores, labels, torch.zeros(count, dtype=torch.int64), valid)
        check(found, boxes, scores, labels, labels, valid, nms)


def test_more_than_five_thousand_boxes() -> None:
    boxes, scores, labels = clustered(1, 6500, 1)
    valid, level, nms = torch.ones(1, 6500, dtype=torch.bool), torch.zeros(6500, dtype=torch.int64), NMS(0.5, top=4000)
    check(nms(boxes, scores, labels, level, valid), boxes, scores, labels, labels, valid, nms)


def test_boxes_left_of_the_image_do_not_overlap_other_classes() -> None:
    boxes = torch.tensor([[[-100.0, -100, -90, -90], [-100, -100, -90, -90]]])
    labels = torch.tensor([[0, 1]])
    for form in (suppress_on_device, nms_module.suppress_on_cpu):
        _, kept = form(boxes, torch.tensor([[0.9, 0.8]]), labels, torch.ones(1, 2, dtype=torch.bool), 0.5, 2)
        assert kept.tolist() == [[True, True]]


@pytest.mark.parametrize("form", [suppress_on_device, nms_module.suppress_on_cpu])
def test_nothing_valid_keeps_nothing(form: Any) -> None:
    boxes, scores, labels = clustered(2, 30, 0)
    _, kept = form(boxes, scores, labels, torch.zeros(2, 30, dtype=torch.bool), 0.5, 10)
    assert kept.shape == (2, 10) and not kept.any()


@pytest.mark.parametrize("form", [suppress_on_device, nms_module.suppress_on_cpu])
def test_invalid_boxes_suppress_nothing(form: Any) -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 0, 0]]])
    valid = torch.tensor([[False, True, True]])
    index, kept = form(boxes, torch.tensor([[0.9, 0.5, 0.4]]), torch.zeros(1, 3, dtype=torch.int64), valid, 0.5, 3)
    assert kept.tolist() == [[True, True, False]] and index[0, :2].tolist() == [1, 2]


@pytest.mark.parametrize("suppress", [NMS(top=5), NoNMS(top=5)])
def test_no_boxes_at_all(suppress: NMS | NoNMS) -> None:
    empty = torch.zeros(2, 0)
    found = suppress(torch.zeros(2, 0, 4), empty, empty.long(), torch.zeros(0, dtype=torch.int64), empty.bool())
    assert found.boxes.shape == (2, 0, 4) and found.valid.shape == (2, 0)
    _, kept = suppress_on_device(torch.zeros(2, 0, 4), empty, empty.long(), empty.bool(), 0.5, 0)
    assert kept.shape == (2, 0)


def test_no_suppression_keeps_the_best_in_order() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.9]])
    boxes = torch.arange(16.0).view(1, 4, 4)
    valid = torch.tensor([[True, True, False, True]])
    found = NoNMS(top=3)(boxes, scores, torch.tensor([[4, 5, 6, 7]]), torch.zeros(4, dtype=torch.int64), valid)
    assert found.labels.tolist() == [[5, 7, 4]] and found.valid.all()
    assert torch.equal(found.boxes[0], boxes[0, [1, 3, 0]])


def test_only_nms_syncs_in_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppress_module, "suppress_on_cpu", suppress_on_device)
    rng = torch.Generator().manual_seed(0)
    counts, select, nms = (600, 150, 40), Select(0.0, 100, min_size=1e-3), NMS(0.7, "level", top=120)
    logits = torch.randn(4, 790, 1, generator=rng)
    anchors = clustered(1, 790, 0)[0][0]
    with Ops() as ops:
        values, rows, labels, level = select.candidates(logits, counts, torch.sigmoid)
        boxes = anchors[rows]
        nms(boxes, values, labels, level, select.valid(boxes, values))
    assert ops.syncs == []
    assert ops.nms == 1  # four images, three levels, one call


def test_cpu_nms_uses_no_syncing_operation() -> None:
    boxes, scores, labels = clustered(2, 300, 0)
    level, valid = torch.arange(300) // 100, torch.rand(2, 300) < 0.9
    with Ops() as ops:
        NMS(0.7, "level", top=120)(boxes, scores, labels, level, valid)
    assert ops.syncs == []


def test_unknown_groups_are_rejected() -> None:
    with pytest.raises(UsageError, match="klass"):
        NMS(0.5, "klass")  # type: ignore[arg-type]


def test_invalid_box_is_dropped_without_affecting_others() -> None:
    task = presets.get("retinanet_mini").task
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [torch.nan, 0, 5, 5]]])
    scores, zero = torch.tensor([[0.9, 0.8, 0.7, 0.95]]), torch.zeros(1, 4, dtype=torch.int64)
    valid = task.select.valid(boxes, scores)
    assert valid.tolist() == [[True, True, True, False]]
    clean = torch.where(valid[..., None], boxes, boxes.nan_to_num(0.0))
    for each in (boxes, clean):
        found = task.suppress(each, scores, zero, zero[0], valid)
        assert found.valid.sum() == 1 and found.boxes[0, 0].tolist() == [0, 0, 10, 10]
        assert suppress_on_device(each, scores, zero, valid, 0.5, 4)[1].sum() == 1


# ------------------------------------------------------------------------------------------ not finite
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "select",
    [
        Select(per_level=10, score=0.3),
        Select(per_level=2000, score=0.3),
        Select(per_level=None, per_class=10, score=0.3),
        Select(per_level=None, score=0.3),
        Select(per_level=10, score=0.3, best_class=True),
    ],
)
def test_scores_that_are_not_finite_are_no_candidates(
    select: Select, bad: float, caplog: pytest.LogCaptureFixture
) -> None:
    """As many of them as there are candidates would take all places: the good ones stay."""
    report_nonfinite.cache_clear()
    scores = torch.rand(2, 3000, 4, generator=torch.Generator().manual_seed(0)) * 0.2
    scores[:, 7, 2] = 0.9
    scores[:, 40:200, 1] = bad
    clean = torch.where(scores.isfinite(), scores, 0.0)
    found, expected = (select.candidates(each, [3000]) for each in (scores, clean))
    for candidates in (found, expected):
        kept = candidates.values > select.score
        assert kept.sum(1).tolist() == [1, 1]
        assert candidates.priors[kept].tolist() == [7, 7] and candidates.labels[kept].tolist() == [2, 2]
    told = "scores that are not finite" in caplog.text
    assert told or select.per_level is None or select.best_class
