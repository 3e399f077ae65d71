"""The load report: which tensors are loaded from given weights, newly initialized, or unused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models import detection as tv

from foveal import presets
from foveal.checkpoints.initial import find_spec, load_backbone, load_weights
from foveal.checkpoints.transfer import LoadReport, grouped, transfer
from foveal.cli.main import main
from foveal.config.overrides import override
from foveal.detectors.detr import DETR
from foveal.errors import FovealError, UsageError
from foveal.parts.backbones.torchvision import Torchvision
from foveal.parts.heads.transformer import Transformer
from foveal.parts.resizing import Resize
from foveal.weights.keys_detr import detr_to_theirs

HEAD = Transformer(queries=5, width=64, heads=2, encoder=1, decoder=1, hidden=32)
SMALL_DETR = DETR(input=Resize(64, 96, multiple=1), head=HEAD)


def report_text(report: LoadReport) -> str:
    return "\n".join(report.lines())


def test_names_are_grouped_by_the_shortest_uniform_prefix() -> None:
    labels = {"a.x.w": "kept", "a.x.b": "kept", "a.y": "kept", "b.x.w": "kept", "b.x.b": "new", "b.z.w": "new"}
    assert grouped(labels) == {"kept": ["a", "b.x.w"], "new": ["b.x.b", "b.z"]}
    assert grouped({}) == {}


def test_numbered_layers_are_collapsed_to_ranges() -> None:
    """Layers without weights (2, 3) do not interrupt; one of another kind (5) does."""
    kept = (*(f"b.layers.{i}.w" for i in (0, 1, 4, 6, 7)), "c.0.w", "d.w")
    report = LoadReport("f", kept, {"x": ("b.layers.5.w",)}, ("b.layers.9.w",), (1, 2))
    assert report.lines()[1:] == [
        "  loaded: b.layers.0-4, b.layers.6-7, c, d",
        "  newly initialized (x): b.layers.5",
        "  unused: b.layers.9",
    ]


def test_a_torchvision_state_dict_on_other_classes(tmp_path: Path) -> None:
    file = tmp_path / "own_320.pth"
    theirs = tv.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=5)
    torch.save(theirs.state_dict(), file)
    spec, source = find_spec(file)
    assert source == file and spec.backbone.name == "mobilenet_v3_large"  # the file alone is enough to start from
    fresh = spec.build(["a", "b"])
    report = load_weights(fresh, file)
    assert report.unused == ()
    assert report_text(report).splitlines()[1:] == [
        "  loaded: backbone, neck, rpn_head, roi_head.trunk",
        "  newly initialized (2 classes here, 4 there): roi_head.predictor",
    ]
    body = theirs.state_dict()["backbone.body.4.block.0.0.weight"]
    assert torch.equal(fresh.state_dict()["backbone.features.4.block.0.0.weight"], body)


@pytest.mark.parametrize("form", ["original", "transformers", "transformers-4"])
def test_every_form_of_detr_on_other_classes(form: str, tmp_path: Path) -> None:
    trained = SMALL_DETR.build([f"c{i}" for i in range(7)])
    file = tmp_path / "detr.safetensors"
    save_file(detr_to_theirs(trained.state_dict(), form), file)  # type: ignore[arg-type]
    spec, _ = find_spec(file)
    fresh = spec.build(["a", "b"])
    report = load_weights(fresh, file)
    assert report.new == {"2 classes here, 7 there": ("head.class_embed.weight", "head.class_embed.bias")}
    kept = [name for name in report.loaded if not torch.equal(fresh.state_dict()[name], trained.state_dict()[name])]
    assert kept == [] and report.unused == ()


def test_same_number_of_other_classes() -> None:
    """Columns are classes: the weights of cat do not initialize car, and order does not replace names."""
    spec = replace(presets.retinanet_mini, input=Resize(64, 96))
    state = spec.build(["cat", "dog"]).state_dict()

    def report(*classes: str, there: tuple[str, ...] = ("cat", "dog")) -> LoadReport:
        return transfer(spec.build(classes), state, "w", there)

    assert report("Cat", "dog").new == {}
    assert list(report("car", "bus").new) == ["other classes"]
    assert "newly initialized (other classes): head.classification_head.cls_logits" in report_text(report("car", "bus"))
    assert "2 of 2 classes keep their columns of the 2 there: dog, cat" in report_text(report("dog", "cat"))
    unnamed = report("car", "bus", there=("class 1", "class 2"))
    assert unnamed.new == {} and "do not name their 2 classes, which are assumed to be car, bus" in report_text(unnamed)


def test_default_class_names() -> None:
    """Those of transformers are LABEL_0, LABEL_1. Gaps between real names (COCO's "unused 12") are not defaults."""
    state = presets.retinanet_mini.build(["cat", "dog"]).state_dict()

    def report(*there: str) -> LoadReport:
        return transfer(presets.retinanet_mini.build(["car", "bus"]), state, "w", there)

    assert report("LABEL_0", "LABEL_1").new == {}
    assert report("unused 0", "class 1").new == {}
    assert list(report("unused 0", "person").new) == ["other classes"]


def test_other_classes_and_other_shapes_are_distinguished() -> None:
    """More queries have nothing to do with classes; and as many columns with a background are not the same classes."""
    trained = SMALL_DETR.build(["a", "b", "c"]).state_dict()
    more = replace(SMALL_DETR, head=replace(HEAD, queries=7)).build(["x"])
    report = transfer(more, trained, "w", ["a", "b", "c"])
    columns = ("head.class_embed.weight", "head.class_embed.bias")
    assert report.new == {"another shape": ("head.query_embed.weight",), "1 classes here, 3 there": columns}
    sigmoid = presets.retinanet_mini.build(["a", "b", "c"])
    softmax = override(presets.retinanet_mini, ["task.cls_loss=CrossEntropy()"]).build(["x", "y"])  # and background
    report = transfer(softmax, sigmoid.state_dict(), "w", ["a", "b", "c"])
    assert list(report.new) == ["2 classes here, 3 there"]


def test_another_architecture() -> None:
    """Tensors of equal names are loaded, the others reported; without any match the file is rejected."""
    here, there = presets.retinanet_mini.build(["a"]), presets.fcos_mini.build(["a"])
    both = transfer(here, there.state_dict(), "fcos", ["a"])
    assert "loaded: backbone" in report_text(both) and "unused: head" in report_text(both)
    with pytest.raises(FovealError, match=r"fcos: no weight fits this detector \(DETR\)"):
        transfer(SMALL_DETR.build(["a"]), there.state_dict(), "fcos", ["a"])


def test_a_classification_network_as_weights(tmp_path: Path) -> None:
    spec = replace(presets.retinanet_mini, backbone=Torchvision("resnet18"))
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    fresh = spec.build(["a"])
    report = load_weights(fresh, tmp_path / "r18.pth")
    assert report.unused == ("fc.weight", "fc.bias")
    assert report_text(report).splitlines()[1:] == [
        "  loaded: backbone",
        "  newly initialized (not in the weights): neck, head",
        "  unused: fc",
    ]
    named = replace(spec, backbone=replace(spec.backbone, weights=str(tmp_path / "r18.pth")))
    again = load_backbone(named, named.build(["a"]))
    assert again is not None and (again.loaded, again.unused) == (report.loaded, report.unused)
    assert load_backbone(spec, spec.build(["a"])) is None
    with pytest.raises(FovealError, match=r"r18\.pth: does not fit resnet50"):
        load_weights(replace(spec, backbone=Torchvision("resnet50")).build(["a"]), tmp_path / "r18.pth")
    with pytest.raises(UsageError, match=r"r18\.pth: .*SmallResNet has no pretrained weights"):
        load_weights(presets.retinanet_mini.build(["a"]), tmp_path / "r18.pth")


def test_timm_network_as_weights(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from foveal.parts.backbones.timm import Timm

    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "r.pth")
    fresh = replace(presets.retinanet_mini, backbone=Timm("resnet10t")).build(["a"])
    lines = report_text(load_weights(fresh, tmp_path / "r.pth")).splitlines()
    assert lines[1] == "  loaded: backbone" and lines[3] == "  unused: fc"


def test_torchvision_state_dict_on_real_images(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The documented command: the file identifies itself, and its 4 classes become those of the blood cells."""
    file, run = tmp_path / "own_320.pth", tmp_path / "run"
    torch.save(
        tv.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=5).state_dict(), file
    )
    words = [
        "--data",
        str(data / "bccd"),
        "--limit",
        "2",
        "--epochs",
        "1",
        "--batch",
        "2",
        "--workers",
        "0",
        "--no-report",
    ]
    assert (
        main(["train", str(file), *words, "--out", str(run), "--device", "cpu", "input.short=96", "input.long=128"])
        == 0
    )
    assert "newly initialized (3 classes here, 4 there): roi_head.predictor" in capsys.readouterr().err
    assert json.loads((run / "run.json").read_text())["classes"] == ["Platelets", "RBC", "WBC"]


def test_load_report_is_printed_and_stored_in_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, first = str(tmp_path / "data"), tmp_path / "first"
    assert main(["data", "make", "shapes", data, "--images", "12"]) == 0
    options = [
        "--data",
        data,
        "--epochs",
        "1",
        "--batch",
        "2",
        "--limit",
        "2",
        "--workers",
        "0",
        "--no-report",
        "--device",
        "cpu",
    ]
    assert main(["train", "retinanet_mini", *options, "--out", str(first), "input.short=64"]) == 0
    capsys.readouterr()
    classes = json.loads((first / "run.json").read_text())["classes"]
    begun = [str(first), *options, "--classes", classes[0], "--out", str(tmp_path / "second"), "input.short=64"]
    assert main(["train", *begun]) == 0
    output = capsys.readouterr().err
    assert f"1 of 1 classes keep their columns of the {len(classes)} there: {classes[0]}" in output
    start = json.loads((tmp_path / "second" / "run.json").read_text())["start"]
    assert start["kept"][0] == "backbone" and start["not used"] == []
