"""R-CNN and SPP-Net through all stages: the result of each; an interruption anywhere changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveal import load
from foveal.assembly.detector import Spec
from foveal.assembly.two_stage import TwoStage
from foveal.checkpoints.initial import frozen_random_parts
from foveal.checks.overfit import Overfit, _ever_longer, overfit
from foveal.config.overrides import override
from foveal.config.parse import parse_spec
from foveal.config.show import show
from foveal.data.augment.transforms import Expand
from foveal.data.open import open_dataset
from foveal.data.synthetic.shapes import make_shapes
from foveal.detectors.rcnn import CLASSES
from foveal.detectors.spp_net import FINE_TUNE_TOP
from foveal.errors import FovealError, UsageError
from foveal.parts.losses.classification import CrossEntropy
from foveal.parts.pooling.warp import Warp
from foveal.recipe import OnImages, OnProposals, OnStoredMaps, OnWindows, Ridge, Solve, WindowSampling
from foveal.training.stages.closed_form import write_svms
from foveal.training.stages.feature_rows import LinearFit
from foveal.training.stages.features import FeatureStore
from foveal.training.stages.svm import UNTRAINED
from tests.helpers.stages_tiny import RCNN_SMALL, SPP_SMALL, Stop, outcome, run, stopped

pytest.importorskip("sklearn")
PARTS = slice(0, 1), slice(1, 3)  # of the stages: the softmax, the layers that replace it


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stages") / "set"
    make_shapes(out, splits={"train": 8, "val": 2}, size=(96, 72), seed=1, masks=False)
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module", params=["rcnn", "spp"])
def whole(request: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("whole") / request.param
    spec: Spec = RCNN_SMALL if request.param == "rcnn" else SPP_SMALL
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEAL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        run(spec, data, out)
    return spec, outcome(out), out


def test_three_stages_leave_ordinary_layers(whole: tuple[Spec, dict[str, Any], Path]) -> None:
    spec, found, out = whole
    validated = [row for row in found["lines"] if row["split"] == "val"]
    assert len(validated) == 3 and validated[0]["step"] + 2 == validated[2]["step"]  # a solved stage is one iteration
    assert [row["epoch"] for row in validated] == [2, 3, 4]
    detector = load(out)
    state = detector.state_dict()
    assert not state[f"{CLASSES}.weight"][-1].any() and not state[f"{CLASSES}.bias"][-1].any()  # background
    assert state[f"{CLASSES}.weight"][:-1].abs().sum() > 0
    assert state["roi_head.predictor.bbox_pred.weight"].abs().sum() > 0
    assert not (out / "features").exists() and not (out / "maps").exists()
    assert json.loads((out / "results.json").read_text())["steps"] == validated[2]["step"]
    image = np.full((72, 96, 3), 90, np.uint8)
    assert len(detector.predict_arrays([image])) == 1
    assert parse_spec(show(spec)) == spec


@pytest.mark.parametrize(
    ("name", "at"),
    [("update", 3), ("write", 0), ("write", 5), ("svm", 0), ("ridge", 0), ("save", 1)],
    ids=lambda v: str(v),
)
def test_stopped_in_any_stage_and_resumed_is_bit_equal(
    whole: tuple[Spec, dict[str, Any], Path], data: Path, tmp_path: Path, name: str, at: int
) -> None:
    """As after ``kill -9``: only the files on the disk remain."""
    from foveal.training.loop import loop
    from foveal.training.stages import closed_form as fitted
    from foveal.training.stages import runner as segments

    spec, expected, _ = whole
    places = {
        "update": (loop.Loop, "_update"),
        "write": (FeatureStore, "write"),
        "svm": (fitted, "fit_svms"),
        "ridge": (fitted, "fit_ridge"),
        "save": (segments, "save_checkpoint"),  # solved and validated, but not saved
    }
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        stopped(patch, *places[name], at)
        with pytest.raises(Stop):
            run(spec, data, out, save_every=0.0)
    stored = len(list((out / "features").glob("*.safetensors"))) if (out / "features").exists() else 0
    assert stored == {"update": 0, "write": at}.get(name, 8)
    run(spec, data, out, resume=True, save_every=0.0)
    found = outcome(out)
    assert [key for key in expected if expected[key] != found[key]] == []
    run(spec, data, out, resume=True)  # complete: reports it and does nothing
    assert outcome(out) == found


def test_softmax_only_recipe() -> None:
    """No part is random: boxes stay as proposed. Without the first stage the CNN is random."""
    detector = RCNN_SMALL.build("ab")
    alone, fitted = (replace(RCNN_SMALL, fit=replace(RCNN_SMALL.fit, stages=RCNN_SMALL.fit.stages[s])) for s in PARTS)
    assert frozen_random_parts(alone, detector) == [] and frozen_random_parts(fitted, detector) == ["roi_head"]


def test_cached_features_of_other_weights_are_not_used(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features", 3, 2)
    assert store.begin("one") == [0, 1, 2]
    store.write(1, {"windows": torch.zeros(0, 4)})
    assert store.begin("one") == [0, 2]
    assert store.begin("two") == [0, 1, 2] and not store.path(1).exists()


def test_cached_features_of_an_image(tmp_path: Path) -> None:
    """Three proposals and the object; the second proposal overlaps it: a quarter of both, 25 / 175."""
    store, windows = FeatureStore(tmp_path / "features", 1, 2), torch.zeros(4, 4)
    windows[:, 2:] = 10
    windows[0] += 40
    windows[1] += 5
    windows[2] += 80
    store.begin("key")
    numbers = {"labels": torch.tensor([1]), "near": torch.tensor([1])}
    lengths = {"classes.norms": torch.arange(4.0), "boxes.norms": torch.arange(4.0) + 4}
    taps = {"classes": torch.ones(4, 3).half(), "boxes": torch.full((1, 5), 2.0).half()}
    store.write(0, {"windows": windows, "objects": windows[3:].clone(), **numbers, **lengths, **taps})
    (rows,) = store.images_of("classes")
    assert rows.labels.tolist() == [-1, -1, -1, 1] and rows.features.shape == (4, 3)
    assert rows.overlaps == pytest.approx(np.array([[0, 0], [0, 1 / 7], [0, 0], [0, 1]]))
    (near,) = store.images_of("boxes")
    assert near.features.tolist() == [[2.0] * 5] and near.boxes.tolist() == [[5, 5, 15, 15]]
    assert near.truth.tolist() == [[0, 0, 10, 10]] and near.norms.tolist() == [4, 5, 6, 7]


def test_chunked_crops_match_unchunked_crops() -> None:
    torch.manual_seed(0)
    detector = RCNN_SMALL.build("ab").eval()
    other = replace(RCNN_SMALL, pool=Warp(32, 2, rows=None)).build("ab").eval()
    other.load_state_dict(detector.state_dict())
    arrays = [np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)]
    assert isinstance(detector, TwoStage)
    with torch.no_grad():
        images = detector.prepare(arrays)
        a, b = (d.detections(d.outputs(images), images) for d in (detector, other))
    assert torch.allclose(a.boxes, b.boxes, atol=1e-4) and torch.allclose(a.scores, b.scores, atol=1e-5)
    assert a.valid.sum() > 0


def test_crops_in_memory_are_counted_over_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 at a time: 5 of each of three images, 16 of a single one."""
    detector = RCNN_SMALL.build("ab").eval()
    rows: list[int] = []
    split = detector.roi_head.split_features  # type: ignore[union-attr, attr-defined]
    monkeypatch.setattr(detector.roi_head, "split_features", lambda x: rows.append(len(x)) or split(x))
    image = np.zeros((60, 80, 3), np.uint8)
    detector.predict_arrays([image] * 3, 3)
    assert rows == [15] * 8  # 40 windows
    rows.clear()
    detector.predict_arrays([image])
    assert rows == [16, 16, 8]


def test_image_without_proposals_has_no_detections() -> None:
    detector = RCNN_SMALL.build("ab").eval()
    image, nothing = np.zeros((60, 80, 3), np.uint8), np.zeros((0, 4), np.float32)
    (found,) = detector.predict_arrays([image], proposals=[nothing])
    assert len(found) == 0


def test_svms_replace_the_softmax() -> None:
    linear = torch.nn.Linear(4, 3)
    weight, bias = np.arange(8, dtype=np.float32).reshape(2, 4), np.array([1.0, -2.0], np.float32)
    write_svms(linear, LinearFit(weight, bias, ()))
    assert torch.equal(linear.weight[:2], torch.from_numpy(weight)) and linear.bias.tolist() == [1, -2, 0]
    assert not linear.weight[2].any()


def test_invalid_recipes_are_rejected(data: Path, tmp_path: Path) -> None:
    for kind, wrong in (
        (Solve, {}),
        (Solve, {"solver": Ridge(), "epochs": 3}),
        (Solve, {"solver": Ridge(), "begin": ("backbone",)}),
        (OnImages, {"draw": WindowSampling(per_image=3)}),
        (OnProposals, {"draw": WindowSampling(per_image=3)}),
        (OnWindows, {"task": "rpn"}),
        (OnStoredMaps, {"task": "rpn"}),
    ):
        with pytest.raises(TypeError):  # a class has its own fields and no others
            kind(**wrong)
    for text, message in (("fit.stages.0.solver=SVM()", "SGD"), ("fit.stages.1.solver=SGD()", "Ridge, SVM")):
        with pytest.raises(UsageError, match=message):
            override(RCNN_SMALL, [text])
    for options, changes, message in (
        ({"epochs": 3}, {}, "--epochs"),
        ({}, {"augment": (Expand(),)}, "mirrored"),
        ({}, {"repeat_threshold": 0.5}, "windows are drawn one by one"),
        ({}, {"stages": (FINE_TUNE_TOP,)}, "whole images"),
    ):
        spec = replace(RCNN_SMALL, fit=replace(RCNN_SMALL.fit, **changes))
        with pytest.raises(UsageError, match=message):
            run(spec, data, tmp_path / "a", **options)
    with pytest.raises(UsageError, match="SoftmaxOrSVM"):
        run(override(RCNN_SMALL, ["roi.cls_loss=CrossEntropy()"]), data, tmp_path / "b")
    assert isinstance(override(RCNN_SMALL, ["roi.cls_loss=CrossEntropy()"]).roi.cls_loss, CrossEntropy)


def test_box_regression_rejects_proposals_without_positives(data: Path, tmp_path: Path) -> None:
    """None overlaps any object enough, so there is no feature vector to fit, nor one that gives the dimension."""
    stages = RCNN_SMALL.fit.stages
    solved = replace(stages[2], solver=replace(stages[2].solver, iou=0.9999))
    spec = replace(RCNN_SMALL, fit=replace(RCNN_SMALL.fit, epochs=1, stages=(stages[0], solved)))
    with pytest.raises(FovealError, match=r"Ridge: no class has anything to learn from.*0\.9999.*foveal proposals"):
        run(spec, data, tmp_path / "a", limit=2)


@pytest.mark.parametrize("spec", [RCNN_SMALL, SPP_SMALL], ids=["rcnn", "spp"])
def test_check_overfits_through_all_stages(spec: Spec, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No time limit holds for a recipe of several stages, so `foveal check` retrains it, longer each time."""
    found = overfit(spec, open_dataset(data, split="train"), count=2, max_time=0.1)
    assert found.images == 2 and found.ap50 is not None
    assert found.first_loss is not None and found.last_loss is not None and found.last_loss < found.first_loss
    assert "epoch 5/5: validation" in capfd.readouterr().err


def test_check_runs_until_overfitted_or_out_of_time() -> None:
    asked: list[int] = []

    def learned(epochs: int) -> Overfit:
        asked.append(epochs)
        return Overfit(8, 1.0 if epochs >= 40 else 0.2, 1.0, 0.1)

    assert _ever_longer(learned, 400, 60.0).passed and asked == [5, 10, 20, 40]
    asked.clear()
    assert not _ever_longer(learned, 30, 60.0).passed and asked == [5, 10, 20, 30]
    asked.clear()
    assert not _ever_longer(learned, 400, 0.0).passed and asked == [5]


def test_class_without_objects_is_named(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = replace(RCNN_SMALL, fit=replace(RCNN_SMALL.fit, epochs=1, stages=RCNN_SMALL.fit.stages[:2]))
    dataset = open_dataset(data, split="train")
    absent = set(range(len(dataset.classes))) - set(dataset.records[0].labels.tolist())
    assert absent
    run(spec, data, tmp_path / "a", limit=1, progress=True)
    output = capfd.readouterr().err
    assert all(f"{dataset.classes[k]!r}; it will never be detected" in output for k in absent)
    bias = load(tmp_path / "a").state_dict()[f"{CLASSES}.bias"]
    assert [k for k in range(len(dataset.classes)) if bias[k] == UNTRAINED] == sorted(absent)
