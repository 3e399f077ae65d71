"""The cfgs of AlexeyAB's repository (``data/darknet-zoo``): parsed, built, and compared with OpenCV's outputs."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foveal.detectors.darknet import DarknetDetector, detection_layers
from foveal.errors import FovealError
from foveal.parts.darknet.cfg import read_cfg_text
from foveal.parts.darknet.cfg_graph import Net, producer, read_net
from foveal.parts.darknet.heads import Yolo
from foveal.parts.darknet.notes import cfg_notes
from foveal.parts.darknet.weights import read_darknet, write_darknet
from foveal.types import Images
from tests.parts.darknet.test_module import random_network

DETECTORS = [
    "Gaussian_yolov3_BDD",
    "cd53paspp-gamma",
    "cspx-p7-mish",
    "cspx-p7-mish_hp",
    "csresnext50-panet-spp",
    "csresnext50-panet-spp-original-optimal",
    "enet-coco",
    "resnet152_trident",
    "t1.test",
    "tiny-yolo",
    "tiny-yolo-voc",
    "tiny-yolo_xnor",
    "yolo",
    "yolo-voc",
    "yolo-voc.2.0",
    "yolo.2.0",
    "yolo9000",
    "yolov2",
    "yolov2-tiny",
    "yolov2-tiny-voc",
    "yolov2-voc",
    "yolov3",
    "yolov3-openimages",
    "yolov3-spp",
    "yolov3-tiny",
    "yolov3-tiny-prn",
    "yolov3-tiny_3l",
    "yolov3-tiny_obj",
    "yolov3-tiny_occlusion_track",
    "yolov3-tiny_xnor",
    "yolov3-voc",
    "yolov3-voc.yolov3-giou-40",
    "yolov3.coco-giou-12",
    "yolov3_5l",
    "yolov4",
    "yolov4-csp",
    "yolov4-csp-s-mish",
    "yolov4-csp-swish",
    "yolov4-csp-x-mish",
    "yolov4-csp-x-swish",
    "yolov4-csp-x-swish-frozen",
    "yolov4-custom",
    "yolov4-p5",
    "yolov4-p5-frozen",
    "yolov4-p6",
    "yolov4-sam-mish-csp-reorg-bfm",
    "yolov4-tiny",
    "yolov4-tiny-3l",
    "yolov4-tiny-custom",
    "yolov4-tiny_contrastive",
    "yolov4_new",
    "yolov4x-mish",
    "yolov7",
    "yolov7-tiny",
    "yolov7x",
]
FIRST_VERSION = [
    "tiny-coco",
    "tiny-yolo",
    "xyolo.test",
    "yolo",
    "yolo-coco",
    "yolo-small",
    "yolo.train",
    "yolo2",
]  # in yolov1/
REFUSED = {
    "yolo9000": r"line 217 \[region\]: tree: YOLO9000's tree of classes",
    "yolov3-tiny_occlusion_track": r"line 112 \[crnn\]: a recurrent layer",
}
OTHERS = {  # no detectors: what is said of each where a detector is asked for
    **dict.fromkeys(("crnn.train", "gru", "lstm.train", "rnn", "rnn.train"), r"line \d+ \[\w+\]: a recurrent layer"),
    "go.test": "channels is 1; images are RGB here",
    **dict.fromkeys(
        (
            *("alexnet", "cifar", "cifar.test", "csdarknet53-omega", "cspx-p7-mish-omega", "darknet", "darknet19"),
            *("darknet19_448", "darknet53", "darknet53_448_xnor", "densenet201", "efficientnet-lite3"),
            *("efficientnet_b0", "extraction", "extraction.conv", "extraction22k", "jnet-conv", "resnet101"),
            *("resnet152", "resnet50", "resnext152-32x4d", "strided", "tiny", "vgg-16", "vgg-conv", "writing"),
        ),
        "it is no detector. Use a classifier as a backbone",
    ),
}


@pytest.fixture(scope="session")
def zoo(data: Path) -> Path:
    path = data / "darknet-zoo"
    if not path.is_dir():
        pytest.skip(f"no darknet-zoo in {data}")
    return path


def test_every_cfg_is_in_one_of_the_lists(zoo: Path) -> None:
    assert {p.stem for p in zoo.glob("*.cfg")} == {*DETECTORS, *OTHERS}
    assert {p.stem for p in zoo.glob("yolov1/*.cfg")} == set(FIRST_VERSION)
    assert len(DETECTORS) == 55 and 1 - len(REFUSED) / len(DETECTORS) >= 0.95


@pytest.mark.parametrize("name", [*DETECTORS, *(f"yolov1/{name}" for name in FIRST_VERSION)])
def test_detectors_are_built_or_name_their_layer(name: str, zoo: Path) -> None:
    """On the meta device, for another number of classes than the cfg's; and the cfg says all that it says."""
    path = zoo / f"{name}.cfg"
    if name in REFUSED:
        with pytest.raises(FovealError, match=REFUSED[name]):
            DarknetDetector.from_cfg(path)
        return
    spec = DarknetDetector.from_cfg(path)
    with torch.device("meta"):
        detector = spec.build(["a", "b", "c"])
    parameters = sum(p.numel() for p in detector.parameters())
    assert parameters > 1_000_000
    for note in cfg_notes(spec.cfg, training=True):
        assert "not a setting" not in note or "uc_normalizer" in note, note


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_refused_by_what_they_are(name: str, zoo: Path) -> None:
    with pytest.raises(FovealError, match=OTHERS[name]) as caught:
        DarknetDetector.from_cfg(zoo / f"{name}.cfg")
    assert str(caught.value).startswith(str(zoo / f"{name}.cfg"))


# ------------------------------------------------------------------------------------------------ against OpenCV 4
@pytest.fixture(scope="session")
def opencv() -> str:
    python = os.environ.get("FOVEAL_OPENCV4")
    if not python:
        pytest.skip("set FOVEAL_OPENCV4 to the python of an environment with opencv-python-headless<5")
    return python


def peer(python: str, text: str, weights: Path, x: Tensor, layers: list[str]) -> list[Tensor]:
    """OpenCV's outputs of ``layers`` (its names, or numbers of convolutions) for the pixels ``x``."""
    folder = weights.parent
    files = [folder / "n.cfg", weights, folder / "x.npy", folder / "out.npz"]
    files[0].write_text(text)
    np.save(files[2], x.numpy())
    script = Path(__file__).parents[2] / "helpers" / "darknet_opencv4.py"
    subprocess.run([python, str(script), *map(str, files), *layers], check=True, env={"PATH": os.environ["PATH"]})
    found = np.load(files[3])
    assert str(found["version"]).startswith("4.")
    return [torch.from_numpy(found[layer]) for layer in layers]


def resized(path: Path, side: int) -> str:
    return re.sub(r"^(width|height)\s*=\s*\d+", rf"\g<1>={side}", read_cfg_text(path), flags=re.M)


def last_layers(net: Net) -> tuple[list[int], list[int]]:
    """The convolutions before the detection layers, and those of them whose logistic function belongs to the head."""
    last = [producer(net.layers, head.sources[0]) for head in net.heads]
    raw = [k for k, head in zip(last, net.heads, strict=True) if isinstance(head.head, Yolo) and head.head.new_coords]
    return last, raw


@pytest.mark.parametrize(
    "name",
    [
        *("yolov4-tiny", "yolov7-tiny", "yolov3-tiny-prn"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("yolov4", "yolov4-csp", "yolov4-csp-swish", "yolov4-tiny-3l", "csresnext50-panet-spp")
        ),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("enet-coco", "yolov7", "yolov4x-mish")),
    ],
)
@torch.no_grad()
def test_raw_outputs_are_those_of_opencv(name: str, zoo: Path, opencv: str, tmp_path: Path) -> None:
    """Random weights, written as a file and read by OpenCV 4's importer: within 1e-3 before the detection layers."""
    text = resized(zoo / f"{name}.cfg", 128)
    net = read_net(text)
    last, raw = last_layers(net)
    network = random_network(net, last, raw=raw)
    write_darknet(tmp_path / "n.weights", net, network.state_dict())
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(4))
    for mine, theirs in zip(
        network(x), peer(opencv, text, tmp_path / "n.weights", x, list(map(str, last))), strict=True
    ):
        assert mine.shape == theirs.shape
        assert mine.std() > 0.05, "too quiet to compare"
        assert (mine - theirs).abs().max() <= 1e-3


@pytest.mark.parametrize("name", ["yolov4-tiny", "yolov7-tiny"])
@torch.no_grad()
def test_boxes_and_scores_are_those_of_opencv(name: str, zoo: Path, opencv: str, tmp_path: Path) -> None:
    """Boxes as fractions of the image, and the scores above OpenCV's threshold of 0.2: with exp and with new_coords."""
    text = resized(zoo / f"{name}.cfg", 128)
    net, spec = read_net(text), replace(DarknetDetector.from_cfg(text), eps=1e-6)
    detector = spec.build([f"class {k}" for k in range(80)]).eval()
    last, raw = last_layers(net)
    backbone = detector.get_submodule("backbone")
    backbone.load_state_dict(random_network(net, last, raw=raw).state_dict())
    write_darknet(tmp_path / "n.weights", net, backbone.state_dict())
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(4))
    layers = [f"yolo_{layer.index}" for layer in detection_layers(net)]
    theirs = torch.cat([o.reshape(-1, 85) for o in peer(opencv, text, tmp_path / "n.weights", x, layers)])
    side = torch.tensor([[128, 128]])
    outputs = detector.outputs(Images(x, side, torch.tensor([[1.0, 1, 0, 0]]), side))
    (predictions,) = outputs.layers
    boxes = spec.task.coder.decode(predictions.deltas, outputs.priors.places(1))[0] / 128
    centers = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
    torch.testing.assert_close(centers, theirs[:, :4], rtol=1e-3, atol=1e-3)
    assert predictions.quality is not None and spec.task.quality is not None
    scores = spec.task.quality.scores(spec.task.cls_loss.scores(predictions.logits), predictions.quality)[0]
    above = theirs[:, 5:] > 0
    assert above.sum() > 100
    assert (scores - theirs[:, 5:])[above].abs().max() <= 1e-3
    assert scores[~above].max() <= 0.2001


SMALL = "[net]\nwidth=32\nheight=32\n"
CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride=1\npad=1\nactivation={}\n"


@pytest.mark.parametrize(
    "layers",
    [
        *(CONV.format(8, name) for name in ("mish", "swish", "logistic", "tanh")),
        CONV.format(8, "leaky") + CONV.format(12, "linear") + "[shortcut]\nfrom=-2\nactivation=leaky\n",
        CONV.format(12, "leaky") + CONV.format(8, "linear") + "[shortcut]\nfrom=-2\nactivation=linear\n",
        CONV.format(8, "leaky") + CONV.format(8, "logistic") + "[sam]\nfrom=-2\n",
        CONV.format(8, "leaky") + "[avgpool]\n" + CONV.format(8, "logistic") + "[scale_channels]\nfrom=-3\n",
        CONV.format(8, "leaky") + "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n",
        CONV.format(8, "leaky") + CONV.format(8, "leaky").replace("pad=1", "pad=1\ngroups=4"),
        CONV.format(8, "leaky") + "[maxpool]\nsize=5\nstride=1\n[maxpool]\nsize=2\nstride=1\n",
        CONV.format(8, "leaky") + "[upsample]\nstride=4\n",
    ],
)  # fmt: skip
@torch.no_grad()
def test_layers_are_those_of_opencv(layers: str, opencv: str, tmp_path: Path) -> None:
    """Each before a plain convolution, whose output is compared."""
    text = SMALL + layers + "[convolutional]\nfilters=6\nsize=1\nactivation=linear\n"
    net = read_net(text)
    end = len(net.layers) - 1
    network = random_network(net, [end])
    write_darknet(tmp_path / "n.weights", net, network.state_dict())
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    (theirs,) = peer(opencv, text, tmp_path / "n.weights", x, [str(end)])
    (mine,) = network(x)
    assert mine.std() > 0.05
    assert (mine - theirs).abs().max() <= 1e-4


# ------------------------------------------------------------------------------------------------------- weights
@pytest.mark.parametrize("name", ["yolov4-tiny", "yolov7-tiny", "enet-coco", "yolov3-tiny_xnor"])
def test_weights_round_trip(name: str, zoo: Path, tmp_path: Path) -> None:
    net = read_net(read_cfg_text(zoo / f"{name}.cfg"))
    network = random_network(net, [layer.sources[0] for layer in net.heads])
    state = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    write_darknet(tmp_path / "n.weights", net, state, seen=64)
    assert (tmp_path / "n.weights").stat().st_size == 20 + 4 * net.floats
    header, read = read_darknet(tmp_path / "n.weights", net)
    assert header.seen == 64 and read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)
    assert all(isinstance(m, nn.Module) for m in network.layers)
