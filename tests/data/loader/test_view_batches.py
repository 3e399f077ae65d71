"""Batches of frozen maps: those of the plain loader's pixels, computed once a view, within a limit of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from foveal.data.augment.transforms import HorizontalFlip, PhotometricDistortion, ScaleJitter, Transform
from foveal.data.loader.batches import TrainBatches
from foveal.data.loader.loader import Batch, Loader
from foveal.data.loader.map_cache import ViewStore, open_folder_of
from foveal.data.loader.shared_records import PackedRecords
from foveal.data.loader.view_batches import ViewBatches
from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset, Record
from foveal.data.synthetic.shapes import make_shapes
from foveal.errors import FovealError
from foveal.parts.resizing import Resize, Stretch
from foveal.types import Images

FLIP = (HorizontalFlip(),)
RULE = Resize(48, 96, 32)  # canvases of 64 x 64 and 64 x 96


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Images of two shapes."""
    out, records = tmp_path_factory.mktemp("views"), []
    for name, size in (("wide", (96, 64)), ("square", (64, 64))):
        make_shapes(out / name, splits={"train": 9}, size=size, seed=1)
        records += open_dataset(out / name, split="train").records
    return Dataset(open_dataset(out / "wide", split="train").classes, records, path=out)


class Pool:
    """Stands for a backbone: averages of 8 x 8 pixels, exact in fp16."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Images) -> list[Tensor]:
        self.calls += 1
        maps = [F.avg_pool2d(images.pixels.float(), side).round() for side in (8, 16)]
        assert len(images) == 1
        return maps


def view_loader(
    dataset: Dataset, folder: Path, augment: Sequence[Transform] = FLIP, limit: int = 10**9, **options: Any
) -> tuple[Loader, Pool, ViewStore]:
    rule = options.pop("rule", RULE)
    loader, pool, store = (
        Loader(dataset, rule, augment, 4, 3, group_by_canvas=True, **options),
        Pool(),
        ViewStore(folder, limit),
    )
    open_folder_of(folder, "key")
    store.open()
    loader.builder = ViewBatches(cast(TrainBatches, loader.builder), store, pool, half=True)
    return loader, pool, store


def assert_same(batch: Batch, plain: Batch) -> None:
    """The targets of the plain loader, and the maps of its pixels."""
    assert batch.indices == plain.indices
    for name in ("sizes", "frame", "original"):
        assert torch.equal(getattr(batch.images, name), getattr(plain.images, name))
    for name in ("boxes", "labels", "valid", "ignore"):
        assert torch.equal(getattr(batch.targets, name), getattr(plain.targets, name))
    if plain.targets.masks is not None:
        assert torch.equal(cast(Tensor, batch.targets.masks), plain.targets.masks)
    assert batch.images.canvas == plain.images.canvas
    for maps, side in zip(batch.images.frozen_maps, (8, 16), strict=True):
        expected = F.avg_pool2d(plain.images.pixels.float(), side).round().permute(0, 2, 3, 1)
        assert maps.dtype == torch.float16 and torch.equal(maps.float(), expected)


def test_maps_and_targets_are_those_of_the_plain_loader(shapes: Dataset, tmp_path: Path) -> None:
    loader, pool, store = view_loader(shapes, tmp_path / "maps", masks=True)
    plain = Loader(shapes, RULE, FLIP, 4, 3, group_by_canvas=True, masks=True)
    per_epoch = []
    for epoch in range(6):
        before = pool.calls
        for batch, other in zip(loader.epoch(epoch), plain.epoch(epoch), strict=True):
            assert_same(batch, other)
        per_epoch.append(pool.calls - before)
    assert per_epoch[0] == 16 and per_epoch[-1] <= 1  # two views of each image, and a few on a larger canvas
    assert 18 < pool.calls <= 2 * 18 + 4
    files = list((tmp_path / "maps").glob("*.safetensors"))
    assert len(files) == pool.calls and store.size == sum(f.stat().st_size for f in files)


def test_nothing_is_decoded_after_the_first_pass(
    shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader, pool, _ = view_loader(shapes, tmp_path / "maps", (), rule=Stretch(64, 64), shuffle=False)
    first = [b.images.frozen_maps for b in loader.epoch(0)]
    assert pool.calls == 16
    again, other, _ = view_loader(shapes, tmp_path / "maps", (), rule=Stretch(64, 64), shuffle=False)
    monkeypatch.setattr(PackedRecords, "image", None)
    second = [b.images.frozen_maps for b in again.epoch(1)]
    assert not other.calls
    assert all(torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x, y, strict=True))


def test_the_limit_holds_and_changes_nothing(shapes: Dataset, tmp_path: Path) -> None:
    loader, pool, store = view_loader(shapes, tmp_path / "few", limit=10_000)
    whole, _, _ = view_loader(shapes, tmp_path / "all")
    for epoch in range(2):
        for a, b in zip(loader.epoch(epoch), whole.epoch(epoch), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a.images.frozen_maps, b.images.frozen_maps, strict=True))
    assert 0 < len(store.images) < 18 and pool.calls > 18
    assert store.size == sum(f.stat().st_size for f in (tmp_path / "few").glob("*.safetensors")) <= 10_000


def test_any_augmentation_in_a_number_of_views(shapes: Dataset, tmp_path: Path) -> None:
    """View 0 in epochs 0, 2, ...; what is drawn is what a loader with these views draws, pixels or not."""
    augment = (ScaleJitter(0.5, 1.5), HorizontalFlip(), PhotometricDistortion())
    loader, pool, _ = view_loader(shapes, tmp_path / "maps", augment, views=2, rule=Stretch(64, 64))
    plain = Loader(shapes, Stretch(64, 64), augment, 4, 3, group_by_canvas=True, views=2)
    endless = Loader(shapes, Stretch(64, 64), augment, 4, 3, group_by_canvas=True)
    boxes = []
    for epoch in range(4):
        for batch, other in zip(loader.epoch(epoch), plain.epoch(epoch), strict=True):
            assert_same(batch, other)
        first = next(iter(endless.epoch(epoch)))
        boxes.append(torch.equal(first.images.pixels, next(iter(plain.epoch(epoch))).images.pixels))
    assert boxes == [True, True, False, False] and pool.calls <= 2 * 18


def test_damaged_files_are_made_again(shapes: Dataset, tmp_path: Path) -> None:
    loader, pool, _ = view_loader(shapes, tmp_path / "maps", ())
    list(loader.epoch(0))
    file = min((tmp_path / "maps").glob("*.safetensors"))
    file.write_bytes(b"\0" * 50)
    loader, pool, _ = view_loader(shapes, tmp_path / "maps", ())
    plain = Loader(shapes, RULE, (), 4, 3, group_by_canvas=True)
    for batch, other in zip(loader.epoch(0), plain.epoch(0), strict=True):
        assert_same(batch, other)
    assert pool.calls == 1 and file.stat().st_size > 50


def test_unreadable_images_are_replaced(shapes: Dataset, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 this is no JPEG")
    records = [Record(**{**vars(r), "path": bad}) if i == 5 else r for i, r in enumerate(shapes.records)] * 2
    dataset = Dataset(shapes.classes, records[:23], path=shapes.path)
    loader, _, _ = view_loader(dataset, tmp_path / "maps")
    plain = Loader(dataset, RULE, FLIP, 4, 3, group_by_canvas=True)
    for epoch in range(2):
        for batch, other in zip(loader.epoch(epoch), plain.epoch(epoch), strict=True):
            assert_same(batch, other)
    assert [s.index for s in loader.skipped] == [s.index for s in plain.skipped] == [5]


def test_maps_that_do_not_fit_the_format_are_refused(shapes: Dataset, tmp_path: Path) -> None:
    loader, _, _ = view_loader(shapes, tmp_path / "maps")
    builder = cast(ViewBatches, loader.builder)
    large = ViewBatches(builder.source, builder.store, lambda images: [torch.full((1, 2, 4, 4), 1e5)], half=True)
    loader.builder = large
    with pytest.raises(FovealError, match=r"not finite in torch.float16.*frozen_maps\.precision"):
        next(iter(loader.epoch(0)))
