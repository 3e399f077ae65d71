"""Checkpoints of other libraries: accepted by every command, and import and export round-trip bit for bit."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import detection as tv

from foveal import presets
from foveal.assembly.detector import Spec
from foveal.checkpoints.export import export, remarks
from foveal.checkpoints.load import find, load
from foveal.cli.main import main
from foveal.config.overrides import override
from foveal.config.show import show
from foveal.detectors.detr import DETR
from foveal.errors import FovealError, UsageError
from foveal.parts.backbones.torchvision import Torchvision
from foveal.parts.heads.transformer import Transformer
from foveal.parts.resizing import Resize
from foveal.weights.keys_detr import detr_to_theirs
from foveal.weights.open import read_state

CLASSES = ("cat", "dog", "bird")
SMALL = DETR(
    input=Resize(64, 96, multiple=1),
    head=Transformer(queries=6, width=64, heads=2, encoder=1, decoder=2, hidden=48),
)
RETINA = replace(presets.retinanet_mini, input=Resize(64, 96))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.fixture(scope="module")
def detr() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return SMALL.build(CLASSES).state_dict()


@pytest.fixture
def image_path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


# ------------------------------------------------------------------------------------------------ round trips
@pytest.mark.parametrize("dilated", [False, True])
@pytest.mark.parametrize("to", ["foveal", "hf", "hf4", "detr", "hf+transformers", "hf4+transformers"])
def test_detr_round_trip(detr: dict[str, Tensor], to: str, dilated: bool, tmp_path: Path) -> None:
    form, _, inner = to.partition("+")
    spec = replace(SMALL, backbone=Torchvision("resnet50", dilated=dilated))
    out = tmp_path / ("dc5" if dilated else "c5") / {"foveal": "m.safetensors", "detr": "detr-dc5.pth"}.get(form, "m")
    if dilated and inner:
        with pytest.raises(UsageError, match="no dilated form"):
            export(out, form, spec, CLASSES, detr, inner=inner)  # type: ignore[arg-type]
        return
    export(out, form, spec, CLASSES, detr, inner=inner or "timm")  # type: ignore[arg-type]
    if form == "detr" and not dilated:
        out = out.rename(out.with_name("detr.pth"))  # the weights do not identify it, the name does
    found = find(out)
    assert same(found.state, detr)
    if form != "detr":  # a state dict has neither names nor a resize rule
        assert found.classes == CLASSES
        assert found.spec().input == spec.with_pixels().input
    assert found.spec().head == spec.head
    assert found.spec().backbone == spec.backbone
    again = tmp_path / ("again" + out.suffix)
    export(again, form, found.spec(), found.classes, found.state, inner=inner or "timm")  # type: ignore[arg-type]
    if out.is_dir():
        assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
        assert (again / "config.json").read_text() == (out / "config.json").read_text()
    else:
        assert same(read_state(again), read_state(out))


@pytest.mark.parametrize(
    "name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn"]
)
def test_torchvision_round_trip(name: str, tmp_path: Path) -> None:
    theirs = getattr(tv, name)(weights=None, weights_backbone=None, num_classes=4)
    file = tmp_path / f"{name}.pth"
    torch.save(theirs.state_dict(), file)
    assert (
        main(
            [
                "weights",
                "import",
                str(file),
                "--classes",
                "a,b,c" + ",d" * name.startswith("fcos"),
                "--out",
                str(tmp_path / "m"),
            ]
        )
        == 0
    )
    for step in ("one", "two"):
        assert (
            main(
                [
                    "weights",
                    "export",
                    str(tmp_path / "m"),
                    "--to",
                    "torchvision",
                    "--out",
                    str(tmp_path / f"{step}.pth"),
                ]
            )
            == 0
        )
        shutil.rmtree(tmp_path / "m")
        assert (
            main(
                [
                    "weights",
                    "import",
                    str(tmp_path / f"{step}.pth"),
                    "--out",
                    str(tmp_path / "m"),
                    *(["--preset", "faster_rcnn_mobilenet_v3_large_320_fpn"] if "320_fpn" in name else []),
                ]
            )
            == 0
        )
    assert same(read_state(tmp_path / "one.pth"), read_state(tmp_path / "two.pth"))
    back = read_state(tmp_path / "two.pth")
    theirs.load_state_dict(back)  # theirs reads it
    boxes = "roi_heads.box_predictor.bbox_pred"
    for key, value in torch.load(file, weights_only=True).items():
        if key.endswith("num_batches_tracked"):
            continue  # constant norms count nothing
        assert torch.equal(back[key][4:], value[4:]) if key.startswith(boxes) else torch.equal(back[key], value), key


def test_darknet_round_trip(data: Path, tmp_path: Path) -> None:
    folder = data / "weights/yolo-fastest"
    name = "yolo-fastest-1.1"
    options = ["--cfg", str(folder / f"{name}.cfg"), "--names", str(folder / "coco.names")]
    assert main(["weights", "import", str(folder / f"{name}.weights"), *options, "--out", str(tmp_path / "m")]) == 0
    assert main(["weights", "export", str(tmp_path / "m"), "--out", str(tmp_path / "out.weights")]) == 0
    theirs = find(tmp_path / "out.weights", cfg=tmp_path / "out.cfg", names=tmp_path / "out.names")
    assert same(theirs.state, {k: v for k, v in find(tmp_path / "m").state.items() if "num_batches" not in k})


def test_backbone_round_trip(tmp_path: Path) -> None:
    spec = replace(RETINA, backbone=Torchvision("resnet18"))
    state = spec.build(["a"]).state_dict()
    for file in (tmp_path / "b.pth", tmp_path / "b.safetensors"):
        export(file, "backbone", spec, ["a"], state)
        fresh = replace(spec, backbone=Torchvision("resnet18", weights=str(file)))
        detector = fresh.build(["a"])
        fresh.load_pretrained(detector)
        new = detector.state_dict()
        assert all(torch.equal(new[k], state[k]) for k in state if k.startswith("backbone."))


# ------------------------------------------------------------------------------------------ model folders
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    export(tmp_path / "retina", "hf", RETINA, CLASSES, RETINA.build(CLASSES).state_dict())
    return tmp_path / "retina"


def test_folder_is_accepted_as_a_model_by_every_command(
    folder: Path, image_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog", "2": "bird"}
    assert config["model_type"] == "foveal"
    assert main(["predict", str(folder), str(image_path), "--json", str(tmp_path / "p.json"), "--score", "0"]) == 0
    assert main(["data", "make", "shapes", str(tmp_path / "data"), "--images", "8"]) == 0
    data = ["--data", str(tmp_path / "data"), "--limit", "2", "--device", "cpu"]
    assert main(["weights", "import", str(folder), "--out", str(tmp_path / "m")]) == 0
    assert same(find(tmp_path / "m").state, find(folder).state)
    capsys.readouterr()
    train = ["train", str(folder), *data, "--epochs", "1", "--batch", "2", "--workers", "0", "--no-report"]
    assert main([*train, "--out", str(tmp_path / "run")]) == 0
    assert "loaded: backbone" in capsys.readouterr().err
    assert main(["weights", "export", str(tmp_path / "run"), "--out", str(tmp_path / "mine")]) == 0
    assert main(["eval", str(tmp_path / "mine"), *data]) == 0
    assert main(["check", str(tmp_path / "mine"), *data, "--encode-only"]) == 0


# ------------------------------------------------------------------------------------------ invalid input
class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("open('touched', 'w')",))


def _spoil(folder: Path, how: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = folder / "model.safetensors"
    changes: dict[str, dict[str, Any]] = {
        "names": {"id2label": {"0": "a", "1": "b"}},
        "kind": {"model_type": "yolos"},
        "labels": {"id2label": {"5": "a"}},
        "schema": {"schema": 99},
        "code": {"spec": "__import__('os').system('touch touched')"},
    }
    if how in changes:
        (folder / "config.json").write_text(json.dumps(config | changes[how]))
    elif how == "json":
        (folder / "config.json").write_text("{")
    elif how == "half":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    elif how == "gone":
        weights.unlink()
    elif how == "pickle":
        weights.unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}, 2))
    else:
        state = load_file(weights)
        save_file({k: v for k, v in state.items() if not k.startswith("head.")}, weights)


SPOILED = {
    "names": "does not fit RetinaNet with 2 classes",
    "kind": "model_type is 'yolos', which is not supported",
    "labels": "id2label has 1 names",
    "schema": "schema 99",
    "code": "spec",
    "json": "cannot be read as JSON",
    "half": "damaged safetensors",
    "gone": "has no model.safetensors",
    "pickle": "contains code",
    "headless": "does not fit RetinaNet with 3 classes: missing",
}


@pytest.mark.parametrize("how", SPOILED)
def test_corrupted_folder_is_one_clear_error(
    how: str, folder: Path, image_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    _spoil(folder, how)
    assert main(["predict", str(folder), str(image_path)]) in (1, 2)
    output = capsys.readouterr().err.strip()
    assert SPOILED[how] in output and str(folder) in output and "\n" not in output, output
    assert not Path("touched").exists()
    assert main(["weights", "import", str(folder), "--out", "imported"]) in (1, 2)
    assert not Path("imported").exists()


@pytest.mark.parametrize("how", ["half", "pickle", "other", "classes", "names", "missing", "preset", "depth"])
def test_bad_files(
    how: str,
    detr: dict[str, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    theirs = detr_to_theirs(detr, "original")
    extra: list[str] = []
    if how == "depth":  # a ResNet of another depth
        theirs = {k: v for k, v in theirs.items() if "layer3.5" not in k}
    if how == "missing":
        theirs = {k: v for k, v in theirs.items() if k != "class_embed.bias"}
    if how == "other":
        theirs = {"encoder.block.weight": torch.ones(2)}
    torch.save({"model": theirs}, "detr.pth")
    file = Path("detr.pth")
    if how == "half":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    if how == "pickle":
        file.write_bytes(pickle.dumps({"model": Evil()}, 2))
    if how == "classes":
        extra = ["--classes", "a,b"]
    if how == "names":
        Path("two.names").write_text("a\nb\n")
        extra = ["--names", "two.names"]
    if how == "preset":
        extra = ["--preset", "retinanet_r50_fpn"]
    words = {
        "half": "truncated", "pickle": "contains code", "other": "not a supported detector",
        "classes": "has 3 classes, 2 names", "names": "has 3 classes, 2 names", "missing": "class_embed.bias",
        "preset": "retinanet_r50_fpn is not a DETR", "depth": "not a DETR on ResNet-50 or 101",
    }  # fmt: skip
    assert main(["weights", "import", "detr.pth", "--out", "m", *extra]) == (2 if how == "preset" else 1)
    output = capsys.readouterr().err.strip()
    assert words[how] in output and "detr.pth" in output and "\n" not in output, output
    assert not Path("m").exists() and not Path("touched").exists()


def test_unknown_name_suggests_the_nearest(
    folder: Path, image_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    for name, near in (("acurate", "accurate"), ("retna", "retina"), ("detr_resnet5", "detr_resnet50")):
        assert main(["predict", name, str(image_path)]) == 1
        output = capsys.readouterr().err
        assert f"{name}: no such run" in output and near in output.partition("Did you mean")[2], output
    assert main(["train", "retinanet_min", "--data", "x"]) == 2
    assert "retinanet_mini" in capsys.readouterr().err


def test_incomplete_detector_is_not_exported(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _spoil(folder, "headless")
    assert main(["weights", "export", str(folder), "--out", str(tmp_path / "x.safetensors")]) == 1
    assert "does not fit RetinaNet with 3 classes: missing head" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def test_export_accepts_what_import_accepts(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, name = data / "weights/yolo-fastest", "yolo-fastest-1.1"
    options = ["--cfg", str(folder / f"{name}.cfg"), "--names", str(folder / "coco.names")]
    weights, out = str(folder / f"{name}.weights"), str(tmp_path / "m.safetensors")
    assert main(["weights", "export", weights, "--out", out]) == 1
    assert "Give its cfg as well: --cfg" in capsys.readouterr().err
    assert main(["weights", "export", weights, *options, "--out", out]) == 0
    assert len(find(out).classes) == 80


def test_settings_missing_from_a_state_dict() -> None:
    """An epsilon and the anchor positions: torchvision's model needs them as arguments."""
    plain = presets.retinanet_r50_fpn
    with torch.device("meta"):
        state = plain.build(CLASSES).state_dict()
    assert remarks("torchvision", plain, state) == []
    changed = override(
        plain, ["backbone.eps=0.0", "task.coder=Delta((10,10,5,5))", "fit.lr=1", "task.cls_loss.gamma=1"]
    )
    first, second = remarks("torchvision", changed, state)
    assert "epsilon of 0" in first and second.startswith("task.coder: not torchvision's default")
    assert remarks("foveal", changed, state) == []


def test_unsupported_detectors_are_rejected(detr: dict[str, Tensor], tmp_path: Path) -> None:
    state = RETINA.build(CLASSES).state_dict()
    for to in ("torchvision", "detr"):
        with pytest.raises(UsageError, match="RetinaNet on this backbone is no"):
            export(tmp_path / "x.pth", to, RETINA, CLASSES, state)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="other projects have no such setting"):
        spec = replace(SMALL, head=replace(SMALL.head, turns=2.0))
        export(tmp_path / "x.pth", "detr", spec, CLASSES, detr)
    with pytest.raises(FovealError, match="not a network of Darknet"):
        export(tmp_path / "x.weights", "darknet", RETINA, CLASSES, state)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    with pytest.raises(FovealError, match="exists already"):
        export(tmp_path / "full", "hf", RETINA, CLASSES, state)
    assert main(["weights", "export", "accurate", "--out", str(tmp_path / "x.onnx")]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full"]
    odd: Spec = replace(SMALL, head=replace(SMALL.head, turns=2.0))  # the folder is then ours
    export(tmp_path / "odd", "hf", odd, CLASSES, detr)
    assert show(load(tmp_path / "odd", device="cpu").spec) == show(odd.with_pixels())
