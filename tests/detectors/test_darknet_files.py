"""Files that a training run of a cfg starts from, and what the commands say of a cfg, without any shared data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from foveal.checkpoints.initial import load_weights
from foveal.checkpoints.load import load
from foveal.cli.main import main
from foveal.detectors.darknet import DarknetDetector
from foveal.errors import FovealError
from foveal.parts.darknet.cfg_graph import read_net, with_outputs
from foveal.parts.darknet.module import DarknetNetwork
from foveal.parts.darknet.weights import other_classes, read_start, write_darknet
from tests.detectors.test_darknet_losses import cfg

CFG = cfg("iou_loss=ciou\niou_normalizer=.07\nscale_x_y=1.05\nnms_kind=greedynms\nbeta_nms=.6\n")
SHAPES = ("disc", "square", "triangle", "ring", "cross", "star")


def weights_of(text: str, path: Path, layers: int | None = None) -> dict[str, torch.Tensor]:
    """Writes random weights of a cfg, or of its first layers, and returns them."""
    net = read_net(text)
    state = DarknetNetwork(net, [layer.sources[0] for layer in net.heads]).state_dict()
    write_darknet(path, net, state)
    if layers is not None:
        floats = sum(layer.floats for layer in net.layers[:layers])
        path.write_bytes(path.read_bytes()[: 20 + 4 * floats])
    return {f"backbone.{key}": value for key, value in state.items()}


def loaded(text: str, source: Path, classes: int) -> tuple[set[str], dict[str, torch.Tensor]]:
    """The layers that were loaded into a new detector, and its state."""
    detector = DarknetDetector.from_cfg(text).build([f"c{k}" for k in range(classes)])
    report = load_weights(detector, source)
    return {name.split(".")[2] for name in report.loaded}, detector.state_dict()


@pytest.mark.parametrize("theirs", [1, 3, 80])
@pytest.mark.parametrize("ours", [3, 6])
def test_weights_for_other_classes(theirs: int, ours: int, tmp_path: Path) -> None:
    """All but the two last convolutions, whatever the classes of the cfg; those too where the number is the same."""
    file = tmp_path / "x.weights"
    stored = weights_of(with_outputs(CFG, theirs), file)
    assert read_start(file, CFG)[0] == theirs
    layers, state = loaded(CFG, file, ours)
    body = {"0", "1", "2", "3", "4"}
    assert layers == (body | {"5", "8"} if theirs == ours else body)
    assert all(torch.equal(state[k], v) for k, v in stored.items() if k.split(".")[2] in layers)
    spec = DarknetDetector.from_cfg(CFG)
    detector = spec.build([f"c{k}" for k in range(ours)])
    object.__setattr__(spec, "weights", str(file))
    spec.load_pretrained(detector)
    own = detector.state_dict()
    assert all(torch.equal(own[k], v) for k, v in stored.items() if k.split(".")[2] in layers and "batches" not in k)


def test_weights_of_the_first_layers(tmp_path: Path) -> None:
    file = tmp_path / "x.conv.3"
    stored = weights_of(CFG, file, 3)
    layers, state = loaded(CFG, file, 6)
    assert layers == {"0", "1", "2"}
    assert torch.equal(state["backbone.layers.2.0.weight"], stored["backbone.layers.2.0.weight"])
    with pytest.raises(FovealError, match=r"those of the first 3 of 10 layers of the cfg.*a training run starts"):
        loaded_for_prediction(file, tmp_path)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(FovealError, match="floats after its header, the cfg needs"):
        loaded(CFG, file, 6)


def loaded_for_prediction(file: Path, folder: Path) -> None:
    """As ``predict`` with a cfg."""
    (folder / "x.cfg").write_text(CFG)
    load(file, cfg=folder / "x.cfg")


def test_prediction_names_the_number_of_classes(tmp_path: Path) -> None:
    file = tmp_path / "x.weights"
    weights_of(with_outputs(CFG, 80), file)
    with pytest.raises(FovealError, match=r"it is of the same network for 80 classes\. Give the cfg with classes=80"):
        loaded_for_prediction(file, tmp_path)
    (tmp_path / "x.cfg").write_text(
        CFG.replace("[convolutional]\n", "", 2).replace("batch_", "[convolutional]\nbatch_", 1)
    )
    with pytest.raises(
        FovealError, match=r"or correct the cfg \(line 11 .* Is a \[section\] line missing before it\?\)"
    ):
        load(file, cfg=tmp_path / "x.cfg")
    floats = read_net(CFG).floats
    assert other_classes(CFG, floats) is None and other_classes(CFG, floats + 1) is None
    assert other_classes(CFG, read_net(with_outputs(CFG, 1)).floats) == 1


def test_commands_say_what_is_ignored_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelled setting in three layers and a loss that is not carried out: a line each, when predicting only the
    first; and a file of COCO's 80 classes fine-tunes on the six of the set."""
    text = CFG.replace("pad=1\n", "pad=1\nstirde=2\n", 3).replace(
        "ignore_thresh", "counters_per_class=1,2,3\nignore_thresh"
    )
    odd = tmp_path / "odd.cfg"
    odd.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    file, shapes, run = tmp_path / "odd.weights", tmp_path / "shapes", tmp_path / "run"
    weights_of(with_outputs(text, 80), file)
    assert main(["data", "make", "shapes", str(shapes), "--images", "6", "--size", "64"]) == 0
    words = ["--data", str(shapes), "--out", str(run), "--epochs", "1", "--batch", "2", "--device", "cpu"]
    capsys.readouterr()
    assert main(["train", str(odd), *words, "--weights", str(file), "--no-report", "--workers", "0"]) == 0
    said = "".join(capsys.readouterr())
    assert "newly initialized (6 classes here, 80 there): backbone.layers.5-8" in said
    stirde = r"note: cfg: lines 10, 18, 26 \[convolutional\]: stirde is not a setting .* Did you mean stride\?"
    assert len(re.findall(stirde, said)) == 1
    assert (
        len(re.findall(r"note: cfg: lines \d+, \d+: counters_per_class is not carried out: classes weigh alike", said))
        == 1
    )
    image = next(shapes.rglob("*.jpg"))
    assert main(["predict", str(run), str(image), "--out", str(tmp_path / "drawn"), "--device", "cpu"]) == 0
    said = "".join(capsys.readouterr())
    assert len(re.findall(stirde, said)) == 1 and "counters_per_class" not in said
    assert main(["eval", str(run), "--data", str(shapes), "--device", "cpu"]) == 0
    assert len(re.findall(stirde, "".join(capsys.readouterr()))) == 1
    assert main(["weights", "export", str(run), "--out", str(tmp_path / "back.weights")]) == 0
    capsys.readouterr()
    back = [str(tmp_path / f"back.{end}") for end in ("weights", "cfg", "names")]
    assert main(["predict", back[0], str(image), "--cfg", back[1], "--names", back[2], "--json", "-"]) == 0
    assert Path(back[2]).read_text().split() == list(SHAPES)
    assert main(["train", str(tmp_path / "none.cfg"), *words]) == 1
    assert "none.cfg: there is no such file. Give the path of a Darknet cfg" in capsys.readouterr().err


def test_models_lists_the_settings_of_a_cfg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tmp_path / "network"  # a cfg by its content
    plain.write_text(CFG)
    assert main(["models", str(plain), "--classes", "6"]) == 0
    said = capsys.readouterr().out
    assert f"{plain}: DarknetDetector, " in said and "task.box_loss.weight=0.07" in said
    assert "cfg='[net]...  # a cfg's text" in said and max(map(len, said.splitlines())) < 300


def test_export_leaves_out_what_other_classes_make_wrong() -> None:
    """Darknet refuses ``counters_per_class`` of another number than ``classes``."""
    text = CFG.replace("ignore_thresh", "counters_per_class=1,2,3\nignore_thresh")
    assert with_outputs(text, 3) == text
    assert with_outputs(text, 4).count("\n# counters_per_class=1,2,3\n") == 2
