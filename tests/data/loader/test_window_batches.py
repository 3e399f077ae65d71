"""Window batches over the whole dataset: sampling, crops, and dependence on (seed, epoch, batch) alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foveal.data.images.load import load_image
from foveal.data.loader.loader import Batch
from foveal.data.loader.shared_records import PackedRecords
from foveal.data.loader.window_batches import Crops, WindowLoader, WindowTable
from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset, Record
from foveal.data.synthetic.shapes import make_shapes
from foveal.errors import FovealError, UsageError
from foveal.parts.pooling.warp import Warp
from foveal.parts.resizing import Original
from foveal.parts.selective_search import SlidingWindows
from foveal.recipe import WindowSampling

POOL, FILL = Warp(32, 3), Original().fill


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("windows") / "set"
    make_shapes(out, splits={"train": 10}, size=(96, 72), seed=1, masks=False)
    dataset = open_dataset(out, split="train")
    source = SlidingWindows(sizes=(0.7, 0.4, 0.25))
    return replace(dataset, records=[replace(r, proposals=source(load_image(r.path)).boxes) for r in dataset.records])


def loader(dataset: Dataset, draw: WindowSampling | None = None, **options: object) -> WindowLoader:
    return WindowLoader(dataset, Crops(POOL, FILL), draw or WindowSampling(per_image=16), 16, 5, **options)  # type: ignore[arg-type]


def same(a: Batch, b: Batch) -> bool:
    pairs = [(getattr(a.images, k), getattr(b.images, k)) for k in ("pixels", "proposals", "sizes")]
    pairs += [(getattr(a.targets, k), getattr(b.targets, k)) for k in ("boxes", "labels", "valid")]
    return a.indices == b.indices and all(torch.equal(x, y) for x, y in pairs)


def test_batches_do_not_depend_on_workers_or_the_start(shapes: Dataset) -> None:
    whole = list(loader(shapes).epoch(3))
    assert len(whole) == len(loader(shapes)) == 10  # 16 windows of each of 10 images, 16 a batch
    for workers, start in ((2, 0), (0, 6)):
        other = loader(shapes, workers=workers)
        again = list(other.epoch(3, start))
        other.close()
        assert len(again) == 10 - start and all(same(a, b) for a, b in zip(whole[start:], again, strict=True))
    assert not same(next(loader(shapes).epoch(3)), next(loader(shapes).epoch(4)))


def test_a_quarter_overlaps_an_object_by_half(shapes: Dataset) -> None:
    draw = WindowSampling(low=0.1)
    table = WindowTable.build(PackedRecords(shapes.records, "learn", "ignore"), draw)
    for index, record in enumerate(shapes.records):
        assert record.proposals is not None
        mine = table.image == index
        everything = np.concatenate([record.proposals.astype(np.float64), record.boxes])
        iou = torch.as_tensor(_iou(everything, record.boxes))
        best = iou.amax(1).numpy()
        assert mine.sum() == (best >= 0.1).sum()
        assert np.isin(np.flatnonzero(mine), table.positive).sum() == (best >= 0.5).sum()
        assert (record.labels[iou.argmax(1).numpy()][best >= 0.1] == table.label[mine]).all()
    for batch in loader(shapes, draw).epoch():
        assert batch.targets.valid.sum() == 4 and batch.images.proposals_valid is not None
        assert batch.images.proposals_valid.all() and len(set(batch.indices)) > 4


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low).clip(0).prod(-1)
    area = lambda x: (x[:, 2:] - x[:, :2]).prod(1)  # noqa: E731
    return shared / (area(a)[:, None] + area(b) - shared)


def test_training_crops_match_inference_crops(shapes: Dataset) -> None:
    """Within a gray level, up to mirroring; the object box is mapped into the crop."""
    made, batch = loader(shapes, flip=0.0), next(loader(shapes, flip=0.0).epoch())
    chosen, mirrored = made.builder.sampler(0, 0)  # type: ignore[attr-defined]
    table = made.builder.sampler.table  # type: ignore[attr-defined]
    assert not mirrored.any() and batch.images.pixels.dtype == torch.uint8
    rule = Original()
    for row, window in enumerate(chosen.tolist()):
        record = shapes.records[table.image[window]]
        images = rule.batch([load_image(record.path)])
        box = torch.from_numpy(table.boxes[window])[None, None]
        crop = POOL([images.pixels], box, (1,), images.sizes)[0]
        one = replace(batch.images, pixels=batch.images.pixels[row : row + 1], sizes=batch.images.sizes[row : row + 1])
        found = rule.normalize(one).pixels[0]
        assert (found - crop).abs().max() < 1.01 / 255 / min(rule.pixels[1])
        assert batch.images.proposals is not None
        inner = batch.images.proposals[row, 0]
        assert inner.tolist() == [3, 3, 29, 29]
        if batch.targets.valid[row, 0]:
            before = _iou(table.boxes[window][None].astype(float), table.truth[window][None].astype(float))
            after = _iou(inner[None].numpy().astype(float), batch.targets.boxes[row].numpy().astype(float))
            assert after == pytest.approx(before, abs=1e-4)


def test_mirrored_windows(shapes: Dataset) -> None:
    plain, turned = next(loader(shapes, flip=0.0).epoch()), next(loader(shapes, flip=1.0).epoch())
    assert torch.equal(plain.images.pixels.flip(3), turned.images.pixels)
    here, there = plain.targets.boxes[:, 0], turned.targets.boxes[:, 0]
    mirror = torch.stack([32 - here[:, 2], here[:, 1], 32 - here[:, 0], here[:, 3]], 1)
    assert torch.allclose(torch.where(plain.targets.valid, mirror, here), there, atol=1e-4)


def test_ranks_share_a_batch(shapes: Dataset) -> None:
    whole = next(loader(shapes).epoch())
    parts = [next(loader(shapes, rank=k, world=2).epoch()) for k in (0, 1)]
    assert sorted(whole.indices) == sorted(parts[0].indices + parts[1].indices)
    assert [int(p.targets.valid.sum()) for p in parts] == [2, 2]


def test_unreadable_image_is_excluded_and_named(shapes: Dataset, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 this is no JPEG")
    records = [Record(**{**vars(r), "path": bad}) if i == 0 else r for i, r in enumerate(shapes.records)]
    many = replace(shapes, records=records * 3)  # one in thirty: under the limit of 5 %
    records = [r if i == 0 or r.path != bad else shapes.records[0] for i, r in enumerate(many.records)]
    made = loader(replace(many, records=records))
    batches = list(made.epoch())
    assert any(len(b.indices) < 16 for b in batches) and all(0 not in b.indices for b in batches)
    assert [s.index for s in made.skipped] == [0] and "bad.jpg" in made.skipped[0].message


def test_nonsensical_arguments_are_rejected(shapes: Dataset) -> None:
    with pytest.raises(UsageError, match="windows"):
        loader(shapes, world=3)
    bare = replace(shapes, records=[replace(r, proposals=None) for r in shapes.records])
    with pytest.raises(FovealError, match="no proposals"):
        loader(bare)
    empty = np.zeros((0, 4), np.float32)
    only = replace(shapes, records=[replace(r, proposals=empty) for r in shapes.records])
    with pytest.raises(FovealError, match="is negative"):
        loader(only)
    for wrong in ({"positive": 0.0}, {"low": 0.6}, {"per_image": 0}):
        with pytest.raises(UsageError):
            WindowSampling(**wrong)  # type: ignore[arg-type]
