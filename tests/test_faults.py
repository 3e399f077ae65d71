"""The collection of faulty datasets, each handled as its manifest expects, in the Python API and the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foveal.cli import main as cli
from foveal.data.doctor.examine import examine
from foveal.data.images.load import ImageError, find_images, load_image
from foveal.data.open import check_trainable, split_pair
from foveal.data.records.findings import fold
from foveal.errors import FovealError
from tests.helpers.data_sets import state

ERROR, WARN, ACCEPT = "clear error naming file", "warn and skip", "accept"
IDS = (
    *("voc-no-optional-tags", "voc-inverted-y", "voc-html-not-xml", "voc-no-object"),
    *("coco-missing-file", "coco-no-categories", "coco-exif-8"),
    *("yolo-four-columns", "yolo-nan", "yolo-names-count"),
    *("img-cut-png", "weights-not-a-checkpoint"),
)


@pytest.fixture(scope="module", params=[1, 2])
def faults(shared: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Case id -> its entry of the manifest, with ``root``; made with two seeds."""
    root = tmp_path_factory.mktemp("faults")
    script = shared / "faults" / "make_faults.py"
    subprocess.run(
        [sys.executable, str(script), str(root), "--seed", str(request.param)], check=True, capture_output=True
    )
    cases = {case["id"]: case | {"root": root} for case in json.loads((root / "manifest.json").read_text())["cases"]}
    assert set(IDS) == set(cases)
    return cases


def wanted(case: dict[str, Any], verb: str) -> set[str]:
    return {case["expect"][verb], *case["also_ok"][verb]}


def names_culprit(text: str, case: dict[str, Any]) -> bool:
    return all(Path(culprit).name in text for culprit in case["culprit"])


@pytest.mark.parametrize("id", [i for i in IDS if i.startswith(("voc", "coco", "yolo"))])
def test_inspect(faults: dict[str, Any], id: str) -> None:
    case = faults[id]
    folder = case["root"] / case["data"]
    before = state(folder)
    report = examine(folder)
    text = report.text()
    if case["expect"]["inspect"] == ACCEPT:
        assert not report.findings and report.status(strict=True) == 0 and report.images == 6
    else:
        assert names_culprit(text, case) and names_culprit(json.dumps(report.to_list()), case)
        assert report.status() == (case["expect"]["inspect"] == ERROR) and report.status(strict=True) == 1
        assert all(f.message for f in report.findings)
    assert state(folder) == before


@pytest.mark.parametrize("id", [i for i in IDS if i.startswith(("voc", "coco", "yolo"))])
@pytest.mark.parametrize("given", ["folder", "files"])
def test_train(faults: dict[str, Any], id: str, given: str) -> None:
    case = faults[id]
    root = case["root"]
    before = state(root / case["data"])
    options: dict[str, Any] = {}
    path = root / case["data"]
    if given == "files":
        path = root / case.get("train", case["data"])
        options = {"images": root / case["images"]} | ({"val": root / case["val"]} if "val" in case else {})
    train, val, note = split_pair(path, **options)
    output = "\n".join(fold([*train.findings, *val.findings]))
    try:
        check_trainable(train)
    except FovealError as error:
        assert ERROR in wanted(case, "train") and names_culprit(str(error), case) and "Traceback" not in str(error)
        assert case["expect"]["train"] == ERROR
    else:
        assert case["expect"]["train"] in (WARN, ACCEPT)
        assert len(val) == 2 and sum(map(len, train.records)) > 0 and note == ""
        if case["expect"]["train"] == ACCEPT:
            assert len(train) == 4 and output == ""
        else:
            assert names_culprit(output, case) and output.startswith("warning")
    assert state(root / case["data"]) == before


def test_valid_annotations_are_retained(faults: dict[str, Any]) -> None:
    """One bad box drops nothing else: each image has three objects, and only the inverted one of twelve is dropped."""
    counts = {}
    for id in (
        "voc-inverted-y",
        "voc-no-object",
        "voc-no-optional-tags",
        "coco-exif-8",
        "yolo-nan",
        "coco-missing-file",
    ):
        train, _, _ = split_pair(faults[id]["root"] / faults[id]["data"])
        counts[id] = sum(map(len, train.records))
    assert counts == {
        "voc-inverted-y": 11,
        "voc-no-object": 9,
        "voc-no-optional-tags": 12,
        "coco-exif-8": 12,
        "yolo-nan": 12,
        "coco-missing-file": 9,
    }


def test_exif_image_is_upright(faults: dict[str, Any]) -> None:
    case = faults["coco-exif-8"]
    train, _, _ = split_pair(case["root"] / case["data"])
    record = next(r for r in train.records if r.path.name == Path(case["culprit"][0]).name)
    pixels = load_image(record.path)
    assert pixels.shape == (record.height, record.width, 3) == (96, 128, 3)
    # The shapes are strong colors on gray noise: inside its boxes the image varies more than outside.
    inside = [pixels[int(y1) : int(y2), int(x1) : int(x2)].astype(int) for x1, y1, x2, y2 in record.boxes]
    assert all((part.max(-1) - part.min(-1)).mean() > 40 for part in inside)


def test_truncated_png(faults: dict[str, Any]) -> None:
    case = faults["img-cut-png"]
    found = find_images(case["root"] / case["data"])
    assert len(found) == 3
    bad = [path for path in found if path.name == case["culprit"][0]]
    for path in found:
        if path in bad:
            with pytest.raises(ImageError, match=path.name):
                load_image(path)
        else:
            assert load_image(path).shape == (96, 128, 3)
    assert len(bad) == 1


# ---------------------------------------------------------------------------------------------- command line
SMALL = ("--epochs", "1", "--batch", "2", "--workers", "0", "--device", "cpu", "--no-report")
SMALLER = ("input=Resize(64, 96)", "backbone=SmallResNet((8, 16, 16, 16))", "neck.channels=16", "head.depth=1")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations, to predict with."""
    folder = tmp_path_factory.mktemp("model")
    assert cli.main(["data", "make", "shapes", str(folder / "data"), "--images", "6", "--size", "96"]) == 0
    run = ["train", "retinanet_mini", "--data", str(folder / "data"), "--out", str(folder / "run")]
    assert cli.main([*run, *SMALL, *SMALLER]) == 0
    return folder / "run"


def judge(case: dict[str, Any], verb: str, status: int, output: str) -> None:
    """``output``: everything that was printed."""
    expected = case["expect"][verb]
    assert (status != 0) == (expected == ERROR), output
    assert "Traceback" not in output
    if expected == ACCEPT:
        output = output.replace("0 errors, 0 warnings, 0 notes", "")
        assert "warning" not in output and "error" not in output, output
    else:
        assert names_culprit(output, case), output


@pytest.mark.parametrize("id", IDS)
def test_commands(
    faults: dict[str, Any], model: Path, id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """doctor, train and predict on the command line."""
    case = faults[id]
    data = case["root"] / case["data"]
    before = state(data)
    out, drawn = str(tmp_path / "run"), str(tmp_path / "drawn")
    culprit = str(data / case["culprit"][0])
    calls = {
        "inspect": ["doctor", str(data)],
        "train": ["train", "retinanet_mini", "--data", str(data), "--out", out, *SMALL, *SMALLER],
        "predict": ["predict", str(model), str(data), "--out", drawn],
        "predict_one": ["predict", str(model), culprit, "--out", drawn],
    }
    if case["format"] == "weights":
        calls["predict"] = ["predict", culprit, str(model.parent / "data" / "JPEGImages"), "--out", drawn]
    for verb in case["expect"]:
        capsys.readouterr()
        status = cli.main(calls[verb])
        captured = capsys.readouterr()
        if verb == "inspect" and case["expect"][verb] == WARN:
            assert status == 0
        judge(case, verb, status, captured.out + captured.err)
    assert state(data) == before
