"""The loader: bitwise reproducibility for any number of workers, exact resume, sharding, broken files."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal.data.augment.combine import CopyPaste, MixUp, Mosaic
from foveal.data.augment.transforms import (
    Expand,
    HorizontalFlip,
    IoUCrop,
    MultiScale,
    PhotometricDistortion,
    ScaleJitter,
    ShortSide,
)
from foveal.data.images.load import load_image
from foveal.data.loader.batches import Order
from foveal.data.loader.loader import Batch, EvalLoader, Loader, targets_of
from foveal.data.loader.shared_records import repeat_factors
from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset, Record
from foveal.data.synthetic.shapes import make_shapes
from foveal.errors import FovealError, UsageError
from foveal.parts.resizing import Letterbox, Resize, Stretch

RECIPE = (PhotometricDistortion(), Expand(), IoUCrop(), HorizontalFlip(), MultiScale((64, 96)))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("loader") / "set"
    make_shapes(out, splits={"train": 24}, size=(96, 72), seed=1, masks=False)
    return open_dataset(out, split="train")


def same(a: Batch, b: Batch) -> bool:
    pairs = [(getattr(a.images, k), getattr(b.images, k)) for k in ("pixels", "sizes", "frame", "original")]
    pairs += [(getattr(a.targets, k), getattr(b.targets, k)) for k in ("boxes", "labels", "valid", "ignore")]
    return a.indices == b.indices and a.ids == b.ids and all(torch.equal(x, y) for x, y in pairs)


def broken(dataset: Dataset, tmp_path: Path, indices: list[int]) -> Dataset:
    """The same dataset with some images that cannot be decoded."""
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 this is no JPEG")
    records = list(dataset.records)
    for i in indices:
        records[i] = Record(**{**vars(records[i]), "path": bad})
    return Dataset(dataset.classes, records, path=dataset.path)


@pytest.mark.parametrize("rule", [Resize(80, 120), Letterbox(96, 64)], ids=repr)
def test_batches_do_not_depend_on_the_number_of_workers(shapes: Dataset, rule: Resize | Letterbox) -> None:
    loaders = [Loader(shapes, rule, RECIPE, 4, 7, workers=w) for w in (0, 1, 2)]
    for epoch in (0, 3):
        want, one, two = (list(loader.epoch(epoch)) for loader in loaders)
        assert len(want) == len(one) == len(two) == 6
        assert all(same(a, b) and same(a, c) for a, b, c in zip(want, one, two, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch(shapes: Dataset, workers: int) -> None:
    loader = Loader(shapes, Resize(80, 120), RECIPE, 4, 7, workers=workers)
    whole = list(loader.epoch(2))
    for start in (0, 1, 5, 6):
        abandoned = loader.epoch(2)
        next(abandoned)  # abandoned in the middle, as by a stopped run
        rest = list(loader.epoch(2, start))
        assert len(rest) == 6 - start
        assert all(same(a, b) for a, b in zip(whole[start:], rest, strict=True))


COMBINED = (ScaleJitter(0.5, 1.5), CopyPaste(p=0.7), Mosaic(p=0.7, until=0.6), MixUp(p=0.7), *RECIPE)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("loader-masks") / "set"
    make_shapes(out, splits={"train": 24}, size=(96, 72), seed=1)
    return open_dataset(out, split="train")


def test_combined_images_do_not_depend_on_workers_start_and_ranks(masked: Dataset) -> None:
    make = lambda **more: Loader(masked, Stretch(64, 48), COMBINED, 4, 7, masks=True, **more)  # noqa: E731
    done = 0.4, 0.8  # the mosaic ends in the middle of the epoch
    whole, other = list(make().epoch(2, 0, done)), list(make(workers=2).epoch(2, 0, done))
    assert len(whole) == 6 and all(same(a, b) for a, b in zip(whole, other, strict=True))
    assert all(torch.equal(a.targets.masks, b.targets.masks) for a, b in zip(whole, other, strict=True))  # type: ignore[arg-type]
    assert all(same(a, b) for a, b in zip(whole[4:], make(workers=1).epoch(2, 4, done), strict=True))
    halves = [list(make(rank=r, world=2).epoch(2, 0, done)) for r in (0, 1)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(batch.images.pixels, torch.cat([p.images.pixels for p in parts]))


def test_a_combination_ends_at_its_share_of_the_training(shapes: Dataset) -> None:
    def pixels(augment: Any, done: tuple[float, float]) -> list[torch.Tensor]:
        return [b.images.pixels for b in Loader(shapes, Stretch(48, 36), augment, 4, 0).epoch(5, 0, done)]

    plain, ending = pixels((), (0.6, 0.9)), pixels((Mosaic(until=0.75),), (0.6, 0.9))
    # six batches, at .6, .65, .7, .75, .8 and .85 of the training
    assert [torch.equal(a, b) for a, b in zip(plain, ending, strict=True)] == [False] * 3 + [True] * 3
    assert not torch.equal(pixels((Mosaic(),), (0.0, 0.0))[5], plain[5])  # a training without end


def test_copy_paste_for_a_detector_without_masks(masked: Dataset, shapes: Dataset) -> None:
    batch = next(Loader(masked, Stretch(64, 48), (CopyPaste(p=1, share=1),), 4, 0).epoch())
    assert batch.targets.masks is None
    assert int(batch.targets.valid.sum()) > sum(len(masked.records[i]) for i in batch.indices)
    with pytest.raises(UsageError, match="the training data has none"):
        Loader(shapes, Stretch(64, 48), (CopyPaste(),), 4, 0)


def test_unreadable_images_are_not_combined(shapes: Dataset, tmp_path: Path) -> None:
    loader = Loader(broken(shapes, tmp_path, [5]), Stretch(48, 36), (Mosaic(),), 4, 0)
    assert len(list(loader.epoch(0))) == 6 and [s.index for s in loader.skipped] == [5]
    one = Dataset(shapes.classes, shapes.records[:1], path=shapes.path)
    assert len(list(Loader(one, Stretch(48, 36), (Mosaic(), MixUp()), 1, 0).epoch())) == 1  # combined with itself


def test_repeat_factors_by_hand() -> None:
    # Of four images class 0 is in all, class 1 in one (f = .25), class 2 in two (f = .5); with t = .64 the factors are
    # 1, sqrt(.64 / .25) = 1.6 and sqrt(.64 / .5) = 1.131; an image has the largest.
    images, labels = np.array([0, 1, 2, 3, 1, 1, 2, 3]), np.array([0, 0, 0, 0, 1, 1, 2, 2])
    factors = repeat_factors(images, labels, 4, 0.64)
    assert factors.tolist() == pytest.approx([1, 1.6, 1.28**0.5, 1.28**0.5])
    assert repeat_factors(images[:0], labels[:0], 4, 0.64).tolist() == [1] * 4


def test_repeated_images_of_an_epoch() -> None:
    repeats = np.array([1.0, 1.6, 1.5, 1.0, 2.4, 1.0])  # 8.5 in all
    order = Order(6, 2, 3, repeats=repeats)
    assert len(order) == 4
    counts = np.zeros(6)
    for epoch in range(400):
        numbers = order.batches(epoch).reshape(-1)
        assert numbers.shape == (8,) and len(set(numbers.tolist())) == 8  # a repeated image has a number of its own
        here = np.bincount(numbers % 6, minlength=6)
        assert (here <= np.ceil(repeats)).all()
        counts += here
    np.testing.assert_allclose(counts / 400, repeats * 8 / 8.5, atol=0.12)
    assert Order(6, 9, 0, repeats=repeats).batches(0).shape == (1, 8)  # fewer images than a batch
    plain, equal = Order(6, 2, 3), Order(6, 2, 3, repeats=np.ones(6))
    assert sorted(plain.batches(1).reshape(-1)) == sorted(equal.batches(1).reshape(-1)) == list(range(6))


def test_a_repeated_image_is_augmented_anew(shapes: Dataset) -> None:
    count = sum(np.bincount(r.labels, minlength=9) > 0 for r in shapes.records)
    loader = Loader(shapes, Stretch(48, 36), (Expand(p=1.0),), 2, 0, repeat_threshold=1.0, workers=1)
    seen: dict[int, list[torch.Tensor]] = {}
    for batch in loader.epoch(0):
        for index, pixels in zip(batch.indices, batch.images.pixels, strict=True):
            seen.setdefault(index, []).append(pixels)
    twice = [v for v in seen.values() if len(v) > 1]
    assert len(loader) * 2 > len(shapes) and twice and all(not torch.equal(v[0], v[1]) for v in twice)
    assert np.min(count[count > 0]) < len(shapes)  # some class is rarer than the threshold


def test_seeds_and_epochs_differ(shapes: Dataset) -> None:
    def first(seed: int, epoch: int) -> list[Batch]:
        return list(Loader(shapes, Resize(80, 120), RECIPE, 4, seed).epoch(epoch))

    a, b, c = first(0, 0), first(1, 0), first(0, 1)
    assert [x.indices for x in a] != [x.indices for x in b]
    assert [x.indices for x in a] != [x.indices for x in c]
    noise = [x.images.frame.tolist() for x in first(0, 0)]
    assert noise == [x.images.frame.tolist() for x in a]


def test_an_epoch_is_a_permutation(shapes: Dataset) -> None:
    loader = Loader(shapes, Stretch(32, 32), (), 5, 0)
    seen = [i for batch in loader.epoch(1) for i in batch.indices]
    assert len(loader) == 4 and len(seen) == len(set(seen)) == 20  # four of 24 wait for another epoch
    plain = Loader(shapes, Stretch(32, 32), (), 5, 0, shuffle=False)
    assert [i for batch in plain.epoch(1) for i in batch.indices] == list(range(20))


def test_augmentation_seed_depends_on_the_sample_not_the_batch(shapes: Dataset) -> None:
    """An image of an epoch gets the same augmentation for every batch size."""
    recipe = (HorizontalFlip(), Expand(p=1.0))
    frames = []
    for batch in (2, 3):
        loader = Loader(shapes, Stretch(32, 32), recipe, batch, 0)
        frames.append({i: f for b in loader.epoch(0) for i, f in zip(b.indices, b.images.frame.tolist(), strict=True)})
    assert frames[0] == frames[1] and len(frames[0]) == 24


def test_without_augmentation_training_input_matches_inference(shapes: Dataset) -> None:
    rule = Resize(100, 150)
    batch = next(Loader(shapes, rule, (), 4, 0).epoch(0))
    want = rule.batch([load_image(shapes.records[i].path) for i in batch.indices])
    assert batch.images.pixels.dtype == torch.uint8
    assert batch.images.pixels.is_contiguous(memory_format=torch.channels_last)
    for name in ("sizes", "frame", "original"):
        assert torch.equal(getattr(batch.images, name), getattr(want, name))
    got = rule.normalize(batch.images)
    # Within 1.5 levels, in normalized units: half a level for the rounding, one for the fixed-point kernel.
    assert (got.pixels - want.pixels).abs().max() <= 1.5 / 255 / min(rule.pixels[1]) + 1e-5
    for row, i in enumerate(batch.indices):
        n = len(shapes.records[i])
        boxes = batch.images.to_original(batch.targets.boxes)[row, :n]
        np.testing.assert_allclose(boxes.numpy(), shapes.records[i].boxes, atol=1e-3)
        assert batch.targets.valid[row].tolist() == [k < n for k in range(batch.targets.valid.shape[1])]


def test_multi_scale_changes_by_batch(shapes: Dataset) -> None:
    loader = Loader(shapes, Resize(800, 1333), (), 2, 0, multi_scale=(32, 64, 96))
    sides = [int(batch.images.sizes.min()) for batch in loader.epoch(0)]
    assert set(sides) == {32, 64, 96}
    canvases = {
        tuple(b.images.pixels.shape[2:])
        for b in Loader(shapes, Stretch(64, 32), (MultiScale((32, 64)),), 2, 0).epoch(0)
    }
    assert canvases == {(32, 64), (64, 128)}
    with pytest.raises(UsageError, match="twice"):
        Loader(shapes, Resize(), (MultiScale(),), 2, 0, multi_scale=(5,))
    with pytest.raises(UsageError, match="ShortSide needs"):
        Loader(shapes, Stretch(64, 32), (ShortSide(),), 2, 0)


def test_ranks_share_every_batch(shapes: Dataset) -> None:
    whole = list(Loader(shapes, Stretch(32, 32), RECIPE[:4], 6, 0).epoch(0))
    parts = [list(Loader(shapes, Stretch(32, 32), RECIPE[:4], 6, 0, rank=r, world=3).epoch(0)) for r in range(3)]
    for k, batch in enumerate(whole):
        assert [i for p in parts for i in p[k].indices] == batch.indices
        assert torch.equal(torch.cat([p[k].images.pixels for p in parts]), batch.images.pixels)
    with pytest.raises(UsageError, match="not divisible by"):
        Loader(shapes, Stretch(32, 32), (), 4, 0, world=3)


@pytest.mark.parametrize(
    ("count", "batch", "world", "shape"), [(3, 8, 2, (1, 4)), (1, 4, 4, (1, 4)), (7, 2, 1, (3, 2))]
)
def test_small_datasets_give_at_least_one_batch(count: int, batch: int, world: int, shape: tuple[int, int]) -> None:
    order = Order(count, batch, 0, world=world)
    table = order.batches(0)
    assert table.shape == shape and len(order) == shape[0]
    assert set(table.reshape(-1).tolist()) <= set(range(count))
    if count < batch:
        assert set(table.reshape(-1).tolist()) == set(range(count))
    assert all(len(order.share(0, 0, r)[0]) == shape[1] // world for r in range(world))


def test_grouping_by_canvas() -> None:
    tall = np.arange(40) % 3 == 0  # 14 tall, 26 wide: batches of 4 leave 2 and 2 over, together one mixed batch
    order = Order(40, 4, 0, group=tall.astype(np.int64))
    for epoch in (0, 1):
        table = order.batches(epoch)
        assert sorted(table.reshape(-1).tolist()) == list(range(40))
        mixed = [len(set(tall[row].tolist())) > 1 for row in table]
        assert sum(mixed) == 1
    assert not np.array_equal(order.batches(0), order.batches(1))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_broken_images_are_replaced_and_named(shapes: Dataset, tmp_path: Path, workers: int) -> None:
    loader = Loader(broken(shapes, tmp_path, [5]), Stretch(32, 32), RECIPE[:4], 4, 0, workers=workers)
    batches = list(loader.epoch(0))
    counts = Counter(i for b in batches for i in b.indices)
    order = loader.builder.order.batches(0).reshape(-1).tolist()  # type: ignore[attr-defined]
    stand_in = order[(order.index(5) + 1) % 24]
    assert counts[5] == 0 and counts[stand_in] == 2 and sum(counts.values()) == 24
    assert [s.index for s in loader.skipped] == [5]
    assert "bad.jpg" in loader.skipped[0].message


def test_too_many_broken_images_stop_the_epoch(shapes: Dataset, tmp_path: Path) -> None:
    loader = Loader(broken(shapes, tmp_path, [3, 9]), Stretch(32, 32), (), 4, 0)  # 2 of 24 are 8 %
    with pytest.raises(FovealError, match=r"2 of 24 images cannot be used, more than 5%.*bad\.jpg"):
        list(loader.epoch(0))
    with pytest.raises(FovealError, match="cannot be used"):
        list(EvalLoader(broken(shapes, tmp_path, [3, 9])).epoch())
    with pytest.raises(FovealError, match="cannot be used"):
        list(Loader(broken(shapes, tmp_path, list(range(24))), Stretch(32, 32), (), 4, 0, workers=1).epoch(0))


def test_image_with_a_size_other_than_annotated_is_not_used(shapes: Dataset) -> None:
    records = list(shapes.records)
    records[2] = Record(**{**vars(records[2]), "width": 95})
    loader = EvalLoader(Dataset(shapes.classes, records))
    assert sum(len(b.indices) for b in loader.epoch()) == 23
    assert "96 x 72" in loader.skipped[0].message and "95 x 72" in loader.skipped[0].message


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_yields_every_image_once(shapes: Dataset, workers: int) -> None:
    seen: list[int] = []
    for rank in range(3):
        loader = EvalLoader(shapes, 3, workers=workers, rank=rank, world=3)
        batches = list(loader.epoch())
        assert len(batches) == len(loader) == 3  # 8 images: 3, 3, 2
        for batch in batches:
            for array, index in zip(batch.arrays, batch.indices, strict=True):
                np.testing.assert_array_equal(array, load_image(shapes.records[index].path))
        seen += [i for b in batches for i in b.indices]
    assert seen == list(range(24))


def test_an_evaluation_batch_has_one_canvas(shapes: Dataset) -> None:
    """All images once, in every rank, whatever their sizes."""
    records = [Record(**{**vars(r), "width": r.width if k % 3 else 300}) for k, r in enumerate(shapes.records)]
    rule, seen = Resize(72, 400), list[int]()
    for rank in range(2):
        loader = EvalLoader(Dataset(shapes.classes, records), 4, input=rule, rank=rank, world=2)
        for batch in loader.builder.batches:  # their images are not of these sizes
            placed = [rule.placement(records[i].height, records[i].width) for i in batch.tolist()]
            assert len(batch) <= 4 and len({rule.canvas([(p.height, p.width)]) for p in placed}) == 1
            seen += batch.tolist()
    assert sorted(seen) == list(range(24)) and seen[16:] == list(range(0, 24, 3))


def test_a_dead_worker_is_reported(shapes: Dataset) -> None:
    loader = Loader(shapes, Stretch(32, 32), (), 2, 0, workers=1)
    batches = loader.epoch(0)
    next(batches)
    assert loader._pool is not None
    worker = loader._pool._iterator._workers[0]  # type: ignore[union-attr]
    # torch raises from its signal handler, wherever the main thread happens to be, also between two lines of this test;
    # without the handler the loader finds out by itself
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(FovealError, match="a worker process died"):
            list(batches)
    finally:
        signal.signal(signal.SIGCHLD, handler)
    assert len(list(loader.epoch(0))) == 12  # and the next epoch starts a new one


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError()])
@pytest.mark.parametrize("gone", [False, True])
def test_a_batch_in_the_memory_of_a_worker(
    shapes: Dataset, error: Exception, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch was announced but cannot be opened: the worker died, or another error is passed on."""
    loader = Loader(shapes, Stretch(32, 32), (), 2, 0, workers=1)
    batches = loader.epoch(0)
    next(batches)
    iterator: Any = loader._pool._iterator  # type: ignore[union-attr]

    def fail() -> None:
        raise error

    monkeypatch.setattr(iterator, "_next_data", fail)
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        if gone:
            os.kill(iterator._workers[0].pid, signal.SIGKILL)
        with pytest.raises(FovealError if gone else type(error)):
            next(batches)
    finally:
        signal.signal(signal.SIGCHLD, handler)
    if gone:
        assert len(list(loader.epoch(0))) == 12


def test_difficult_and_crowd() -> None:
    flags = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=bool)
    boxes = np.array([[0, 0, 10, 10], [1, 1, 20, 20], [2, 2, 30, 30], [3, 3, 40, 40]], dtype=float)
    difficult, crowd, ignore = flags
    record = Record(1, Path("x"), 50, 50, boxes, np.arange(4), crowd, difficult, ignore, np.ones(4))
    target = targets_of(record)
    assert target.labels.tolist() == [0, 1, 2, 3]
    assert target.ignore is not None and target.ignore.tolist() == [False, False, True, True]
    target = targets_of(record, frame=(2, 3, 5, 7), difficult="ignore", crowd="drop")
    assert target.labels.tolist() == [0, 1, 3]
    assert target.ignore is not None and target.ignore.tolist() == [False, True, True]
    assert target.boxes[1].tolist() == [1 * 2 + 5, 1 * 3 + 7, 20 * 2 + 5, 20 * 3 + 7]
    assert targets_of(record, difficult="drop", crowd="learn").labels.tolist() == [0, 2, 3]


def test_images_without_objects(shapes: Dataset) -> None:
    records = [Record(**{**vars(r), **_nothing()}) for r in shapes.records[:4]]
    batch = next(Loader(Dataset(shapes.classes, records), Resize(64, 96), RECIPE, 4, 0).epoch(0))
    assert batch.targets.boxes.shape == (4, 1, 4) and not batch.targets.valid.any()


def _nothing() -> dict[str, object]:
    none = np.zeros(0, dtype=bool)
    rows = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int64), "area": np.zeros(0)}
    return {**rows, "crowd": none, "difficult": none, "ignore": none}


def test_invalid_arguments_are_rejected(shapes: Dataset) -> None:
    with pytest.raises(FovealError, match="no images"):
        Loader(Dataset(("a",), []), Resize())
    for wrong in ({"batch": 0}, {"workers": -1}, {"rank": 2, "world": 2}):
        with pytest.raises(UsageError):
            Loader(shapes, Resize(), **wrong)  # type: ignore[arg-type]


def test_ignored_regions_reach_the_matcher(shapes: Dataset) -> None:
    """The matcher reads ``any_ignore``: without it a crowd region would be background."""
    records = [Record(**vars(r)) for r in shapes.records]
    crowded = next(i for i, r in enumerate(records) if len(r))
    records[crowded].crowd = np.arange(len(records[crowded])) == 0
    dataset = Dataset(shapes.classes, records, path=shapes.path)
    found = [b.targets for b in Loader(dataset, Resize(80, 120), (), 1, 0, crowd="ignore").epoch(0)]
    assert sum(t.any_ignore for t in found) == 1
    assert [t.any_ignore for t in found] == [bool(t.ignore.any()) for t in found]
