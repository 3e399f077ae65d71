"""The generated dataset: equal bytes for equal seeds, boxes and masks that match the pixels, readable formats."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.cli import main as cli
from foveal.data.open import open_dataset
from foveal.data.synthetic.scenes import CLASSES, MIN_SIDE, VISIBLE, draw_scene
from foveal.data.synthetic.shapes import make_shapes
from foveal.errors import FovealError, UsageError
from foveal.masks.rle import Masks


def digest(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("voc") / "set", images=20, seed=3, size=(160, 128)).path


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("coco") / "set", images=20, seed=3, size=(160, 128), format="coco").path


@pytest.mark.parametrize("format", ["voc", "coco"])
def test_same_seed_gives_same_bytes(tmp_path: Path, format: str, request: pytest.FixtureRequest) -> None:
    again = make_shapes(tmp_path / "again", images=20, seed=3, size=(160, 128), format=format).path  # type: ignore[arg-type]
    assert digest(again) == digest(request.getfixturevalue(format))


def test_another_seed_gives_other_images(tmp_path: Path, voc: Path) -> None:
    other = make_shapes(tmp_path / "other", images=20, seed=4, size=(160, 128)).path
    one, two = digest(voc), digest(other)
    assert all(one[f"JPEGImages/{i:06d}.jpg"] != two[f"JPEGImages/{i:06d}.jpg"] for i in range(1, 21))


def test_larger_dataset_starts_with_the_smaller_one(tmp_path: Path) -> None:
    small = make_shapes(tmp_path / "small", splits={"train": 3}, size=(96, 96), masks=False).path
    large = make_shapes(tmp_path / "large", splits={"train": 5}, size=(96, 96), masks=False).path
    one, two = digest(small), digest(large)
    image_names = [name for name in one if name.endswith(".jpg")]
    assert len(image_names) == 3 and all(one[name] == two[name] for name in image_names)


def test_readers_report_no_findings_and_formats_agree(voc: Path, coco: Path) -> None:
    for split, count in (("train", 16), ("val", 4)):
        a, b = open_dataset(voc, split=split), open_dataset(coco, split=split)
        assert (a.format, b.format) == ("voc", "coco")
        assert a.classes == b.classes == tuple(CLASSES)
        assert not a.findings and not b.findings
        assert len(a) == len(b) == count
        for x, y in zip(a.records, b.records, strict=True):
            np.testing.assert_array_equal(x.boxes, y.boxes)
            np.testing.assert_array_equal(x.labels, y.labels)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools, not ours
def test_boxes_bound_the_masks(voc: Path, coco: Path) -> None:
    mask_utils = pytest.importorskip("pycocotools.mask")
    content = json.loads((coco / "annotations" / "instances_train.json").read_text())
    assert len(content["annotations"]) > 30
    rows: dict[int, list[dict[str, object]]] = {}
    for row in content["annotations"]:
        rows.setdefault(row["image_id"], []).append(row)
    for image_id, objects in rows.items():
        instances = np.array(Image.open(voc / "SegmentationObject" / f"{image_id:06d}.png"))
        classes = np.array(Image.open(voc / "SegmentationClass" / f"{image_id:06d}.png"))
        for k, row in enumerate(objects, 1):
            encoded = mask_utils.frPyObjects(row["segmentation"], 128, 160)
            mask = mask_utils.decode(encoded).astype(bool)
            np.testing.assert_array_equal(mask, instances == k)
            assert (classes[mask] == row["category_id"]).all()
            assert mask_utils.toBbox(encoded).tolist() == row["bbox"]
            assert mask_utils.area(encoded) == row["area"]


def test_rle_by_hand() -> None:
    mask = np.array([[1, 0, 1], [1, 0, 0]], dtype=bool)  # columns: 11, 00, 10
    assert Masks.of_dense(mask[None]).counts()[0].tolist() == [0, 2, 2, 1, 1]
    assert Masks.of_dense(np.zeros((1, 2, 2))).counts()[0].tolist() == [4]


def test_distribution() -> None:
    scenes = [draw_scene(96, 96, np.random.default_rng(i)) for i in range(250)]
    labels = np.concatenate([s.labels for s in scenes])
    share = np.bincount(labels, minlength=len(CLASSES)) / len(labels)
    wanted = np.array([f for f, _ in CLASSES.values()])
    # Four standard deviations of a share of about 1,100 objects; a little more, as what does not fit is drawn again.
    np.testing.assert_allclose(share, wanted, atol=4 * np.sqrt(0.25 / len(labels)))
    assert share[-1] < share[0] / 3  # the rare class
    empty = np.mean([len(s.labels) == 0 for s in scenes])
    assert 0.03 < empty < 0.19  # 0.1 and five standard deviations
    sides = np.concatenate([(s.boxes[:, 2:] - s.boxes[:, :2]).max(1) for s in scenes])
    assert np.mean(sides < 0.125 * 96) > 0.1 and np.mean(sides > 0.3 * 96) > 0.1
    assert np.mean(np.concatenate([s.occluded for s in scenes])) > 0.05
    assert np.mean(np.concatenate([s.truncated for s in scenes])) > 0.03


def test_every_object_stays_visible() -> None:
    for seed in range(40):
        scene = draw_scene(128, 96, np.random.default_rng(seed))
        for k, (x1, y1, x2, y2) in enumerate(scene.boxes):
            assert x2 - x1 >= MIN_SIDE and y2 - y1 >= MIN_SIDE
            mine = scene.owner == k
            assert mine.any() and mine[y1:y2, x1:x2].sum() == mine.sum()
            assert mine[y1].any() and mine[y2 - 1].any() and mine[:, x1].any() and mine[:, x2 - 1].any()
    assert 0.5 < VISIBLE < 1


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep.txt").write_text("mine")
    with pytest.raises(FovealError, match="not empty"):
        make_shapes(tmp_path / "full", images=5)
    assert (tmp_path / "full" / "keep.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="yolo"):
        make_shapes(tmp_path / "a", format="yolo")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="too small"):
        make_shapes(tmp_path / "a", size=(32, 200))
    with pytest.raises(UsageError, match="split"):
        make_shapes(tmp_path / "a", splits={"../train": 3})
    with pytest.raises(UsageError, match="at least one"):
        make_shapes(tmp_path / "a", splits={"train": 0})
    assert not (tmp_path / "a").exists()


def test_interrupted_generation_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "set", images=6, size=(64, 64), progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_foreign_folder_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "thesis.txt").write_text("mine")
    make_shapes(tmp_path / "set", splits={"train": 1}, size=(64, 64), masks=False)
    assert (tmp_path / "set.partial" / "thesis.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set", "set.partial"]
    hidden = tmp_path / f".new.partial-{os.getpid()}"
    hidden.mkdir()
    with pytest.raises(FovealError, match="in the way"):
        make_shapes(tmp_path / "new", splits={"train": 1}, size=(64, 64), masks=False)
    assert hidden.is_dir() and not (tmp_path / "new").exists()


@pytest.mark.parametrize(("images", "parts"), [(2, {"train": 1, "val": 1}), (4, {"train": 3, "val": 1})])
def test_validation_split_has_objects(tmp_path: Path, images: int, parts: dict[str, int]) -> None:
    made = make_shapes(tmp_path / "set", images=images, size=(64, 64), masks=False)
    assert made.images == parts
    assert {split: len(open_dataset(made.path, split=split)) for split in parts} == parts


def test_output_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.main(["data", "make", "shapes", ".", "--images", "2", "--size", "64"]) == 0
    names = ["Annotations", "ImageSets", "JPEGImages", "SegmentationClass", "SegmentationObject", "classes.txt"]
    assert sorted(os.listdir()) == names
    monkeypatch.chdir(tmp_path / "there")
    assert cli.main(["data", "convert", "../here", "--to", "yolo", "--out", "."]) == 0
    assert sorted(os.listdir()) == ["data.yaml", "images", "labels"]
    assert len(open_dataset(".")) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "there"]


def test_interrupted_generation_leaves_an_empty_folder_empty(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "set").mkdir()
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "set", images=2, size=(64, 64), progress=stop)
    assert list((tmp_path / "set").iterdir()) == []
