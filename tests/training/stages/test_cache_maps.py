"""Training a head on cached feature maps: the maps match the detector's, and an interrupted run resumes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from foveal.assembly.two_stage import TwoStage
from foveal.data.images.load import load_image
from foveal.data.loader.stored_maps import MapStore, Pooled
from foveal.data.loader.window_batches import WindowLoader
from foveal.data.open import open_dataset
from foveal.data.synthetic.shapes import make_shapes
from foveal.detectors.spp_net import FINE_TUNE_TOP
from foveal.errors import FovealError, UsageError
from foveal.parts.backbones.image_pyramid import ImagePyramid
from foveal.parts.backbones.small import SmallResNet
from foveal.parts.resizing import Resize
from foveal.recipe import WindowSampling
from foveal.training.loop.loop import Loop
from foveal.training.stages.cache_maps import PooledHead, check_maps, store_maps
from tests.helpers.stages_tiny import SPP_SMALL, Stop, outcome, run, stopped

pytest.importorskip("sklearn")
PYRAMID = replace(SPP_SMALL, input=Resize(72, 96, 1), backbone=ImagePyramid(SmallResNet((8, 8)), (72, 48)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("maps") / "set"
    make_shapes(out, splits={"train": 8, "val": 2}, size=(90, 66), seed=1, masks=False)
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.mark.parametrize("spec", [SPP_SMALL, PYRAMID], ids=["one scale", "two"])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_cached_features_match_the_detector(spec: object, flip: float, data: Path, tmp_path: Path) -> None:
    """Within half precision, of images that are resized, mirrored or not; and so is the loss."""
    torch.manual_seed(3)
    dataset = open_dataset(data, split="train")
    records = [replace(r, proposals=SPP_SMALL.proposals(load_image(r.path)).boxes) for r in dataset.records]
    dataset = replace(dataset, records=records)
    detector = spec.build(dataset.classes).eval()  # type: ignore[attr-defined]
    assert isinstance(detector, TwoStage)
    options = {"mirrored": flip > 0, "autocast": nullcontext, "step": lambda done, total: None}
    store, skipped = store_maps(detector, dataset, tmp_path, **options)  # type: ignore[arg-type]
    assert not skipped and len(list(store.folder.glob("*.safetensors"))) == len(records)
    pool, strides = detector.pool, detector.strides
    view = Pooled(store, pool, strides)
    loader = WindowLoader(dataset, view, WindowSampling(low=0.1), 32, 5, flip=flip)
    batch = next(loader.epoch())
    assert batch.images.proposals is not None and batch.targets.valid.sum() == 8 and len(set(batch.indices)) > 4
    for row, index in enumerate(batch.indices):
        image = load_image(records[index].path)
        whole = detector.prepare([image[:, ::-1].copy() if flip else image], [records[index].proposals])
        with torch.no_grad():
            pooled = pool(detector.features(whole), batch.images.proposals[row][None], strides, whole.sizes)
        assert torch.allclose(pooled[0], batch.images.pixels[row], rtol=2e-3, atol=2e-3)
        inside = batch.targets.boxes[row, 0]
        if batch.targets.valid[row, 0]:
            scale, width = whole.frame[0, 0], image.shape[1]
            boxes = torch.from_numpy(records[index].boxes).float()
            boxes = (
                boxes
                if not flip
                else torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
            )
            near = (boxes * scale - inside).abs().amax(1)
            assert near.min() < 0.5 and records[index].labels[int(near.argmin())] == batch.targets.labels[row, 0]
    again = next(WindowLoader(dataset, view, WindowSampling(low=0.1), 32, 5, flip=flip, workers=2).epoch())
    assert torch.equal(again.images.pixels, batch.images.pixels)
    losses = PooledHead(detector)(batch.images, batch.targets)
    assert set(losses) == {"cls", "box"} and float(losses["cls"].detach()) == pytest.approx(1.95, abs=0.3)  # ln 7


def test_interrupted_while_maps_are_cached(data: Path, tmp_path: Path) -> None:
    spec = replace(SPP_SMALL, fit=replace(SPP_SMALL.fit, stages=SPP_SMALL.fit.stages[:1]))
    run(spec, data, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        stopped(patch, MapStore, "write", 5)
        with pytest.raises(Stop):
            run(spec, data, tmp_path / "run", save_every=0.0)
    assert len(list((tmp_path / "run" / "maps").glob("*.safetensors"))) == 5
    run(spec, data, tmp_path / "run", resume=True, save_every=0.0)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_run_from_given_weights_resumes_on_the_maps_of_those_weights(data: Path, tmp_path: Path) -> None:
    """Not on maps of the random weights that the detector was built with."""
    spec = replace(SPP_SMALL, fit=replace(SPP_SMALL.fit, stages=SPP_SMALL.fit.stages[:1]))
    weights = run(spec, data, tmp_path / "first", seed=7).path
    run(spec, data, tmp_path / "whole", weights=weights)
    with pytest.MonkeyPatch.context() as patch:
        stopped(patch, Loop, "_update", 3)
        with pytest.raises(Stop):
            run(spec, data, tmp_path / "run", weights=weights, save_every=0.0)
    run(spec, data, tmp_path / "run", resume=True, save_every=0.0)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_images_that_cannot_be_read_are_tried_again(data: Path, tmp_path: Path) -> None:
    """The files of the others stay; too many are an error that says why."""
    Image.new("RGB", (20, 20)).save(tmp_path / "0.png")
    record = open_dataset(data, split="train").records[0]
    records = [replace(record, path=tmp_path / f"{i}.png") for i in range(2)]
    store = MapStore(tmp_path / "maps", 2)
    computed: list[int] = []

    def compute(index: int, image: Any) -> dict[str, torch.Tensor]:
        computed.append(index)
        return {"width": torch.zeros(())}

    with pytest.raises(FovealError, match=r"maps: 1 of 2 images cannot be read: .*1\.png: no such file"):
        store.fill("key", records, compute, lambda done, total: None)
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    assert store.fill("key", records, compute, lambda done, total: None) == {}
    assert computed == [0, 1, 1]


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_stored_file_that_cannot_be_read_is_named(tmp_path: Path, damage: str) -> None:
    store = MapStore(tmp_path, 1)
    store.write(0, {"width": torch.zeros(())})
    path = store.path(0)
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(FovealError, match=r"0\.safetensors: the stored file cannot be read .*Remove it if"):
        store.read(0, False)


def test_maps_of_a_changed_image_are_recomputed(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data, split="train")
    record = replace(dataset.records[0], path=tmp_path / "own.png")
    dataset = replace(dataset, records=[record, dataset.records[1]])
    detector = SPP_SMALL.build(dataset.classes)
    assert isinstance(detector, TwoStage)
    made: list[int] = []
    for color in (10, 10, 200):
        Image.new("RGB", (90, 66), (color, 0, 0)).save(record.path)
        steps: list[int] = []
        store_maps(
            detector, dataset, tmp_path, mirrored=False, autocast=nullcontext, step=lambda n, _, s=steps: s.append(n)
        )  # type: ignore[misc]
        made.append(len(steps))
    assert made == [2, 0, 2]


def test_the_backbone_is_frozen() -> None:
    detector = SPP_SMALL.build("ab")
    check_maps(detector, FINE_TUNE_TOP)
    for trains in (("",), ("backbone", "roi_head"), ("backbone.stem",)):
        with pytest.raises(UsageError, match="freezes"):
            check_maps(detector, replace(FINE_TUNE_TOP, trains=trains))
