"""Darknet networks against the outputs of other programs for the same files, and each layer by hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import SqueezeNet1_0_Weights

from foveal import presets
from foveal.config.overrides import override
from foveal.config.parse import parse_spec
from foveal.config.show import show
from foveal.errors import FovealError, UsageError
from foveal.parts.backbones.darknet import Darknet
from foveal.parts.backbones.torchvision import Torchvision
from foveal.parts.darknet.activations import activation
from foveal.parts.darknet.cfg import read_cfg_text
from foveal.parts.darknet.cfg_graph import Net, read_net
from foveal.parts.darknet.layers import ACTIVATIONS
from foveal.parts.darknet.module import DarknetNetwork
from foveal.parts.darknet.operations import ReorgModule
from foveal.parts.darknet.weights import read_darknet, write_darknet
from foveal.parts.layers.norms import fold_norms
from foveal.weights.state import load_network_file, load_state

NET = "[net]\nwidth=8\nheight=8\n"
REFERENCES = {  # reference/NAME.npz: cfg, weights
    "yolo-fastest-1.1-xl": ("yolo-fastest/yolo-fastest-1.1-xl.cfg", "yolo-fastest/yolo-fastest-1.1-xl.weights"),
    "yolo-lite-coco-trial6": ("yolo-lite/coco-trial6.cfg", "yolo-lite/coco-trial6_653550.weights"),
    "yolo-lite-voc-trial3": ("yolo-lite/tiny-yolov2-trial3.cfg", "yolo-lite/tiny-yolov2-trial3.weights"),
    "MobileNetV2-YOLOv3-Nano-voc": (
        "mobilenetv2-yolov3-nano/MobileNetV2-YOLOv3-Nano-voc.cfg",
        "mobilenetv2-yolov3-nano/MobileNetV2-YOLOv3-Nano-voc.weights",
    ),
}


def loaded(cfg: Path, weights: Path, eps: float) -> tuple[Net, DarknetNetwork]:
    """The network up to its last detection layer, or all of a classifier."""
    net = read_net(read_cfg_text(cfg), cfg)
    returns = [head.sources[0] for head in net.heads] or [len(net.layers) - 1]
    network = DarknetNetwork(net, returns, eps=eps)
    load_state(network, read_darknet(weights, net)[1], path=weights, what=cfg.name)
    return net, network.eval()


def pixels(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


# -------------------------------------------------------------------------------------------- reference outputs
@pytest.mark.parametrize("name", REFERENCES)
@torch.no_grad()
def test_raw_outputs_match_opencv(name: str, data: Path) -> None:
    """Stored outputs of OpenCV 4.14 for photos: within .005 with its epsilon, 1e-6; .05 with Darknet's on a GPU."""
    cfg, weights = (data / "weights" / part for part in REFERENCES[name])
    stored = np.load(data / f"weights/reference/{name}.npz")
    for eps, tolerance in ((1e-6, 0.005), (1e-5, 0.05)):
        net, network = loaded(cfg, weights, eps)
        for photo in ("dog", "person"):
            maps = network(pixels(stored[f"input_{photo}"]))
            for head, mine in zip(net.heads, maps, strict=True):
                theirs = torch.from_numpy(stored[f"conv_{head.sources[0]}_{photo}"])
                assert mine.shape == theirs.shape
                assert (mine - theirs).abs().max() <= tolerance


@torch.no_grad()
def test_tiny_darknet_classifies_as_opencv_does(data: Path) -> None:
    folder = data / "weights/tiny-darknet"
    _, network = loaded(folder / "tiny.cfg", folder / "tiny.weights", 1e-6)
    stored = np.load(data / "weights/reference/tiny-darknet.npz")
    top5 = json.loads((data / "weights/reference/tiny-darknet.json").read_text())["top5"]
    names = (folder / "imagenet.shortnames.list").read_text().splitlines()
    for photo in ("dog", "eagle"):
        scores = network(pixels(stored[f"input_{photo}"]))[0].flatten()
        assert (scores - torch.from_numpy(stored[f"prob_{photo}"])).abs().max() <= 1e-4
        best = scores.topk(5)
        assert [names[k] for k in best.indices] == [name for name, _ in top5[f"{photo}.jpg"]]
        assert best.values.tolist() == pytest.approx([score for _, score in top5[f"{photo}.jpg"]], abs=1e-3)


@torch.no_grad()
def test_squeezenet_classifies_as_torchvision_does(data: Path) -> None:
    """The other real ImageNet file, through our torchvision backbone: its features, and its classifier on them.

    In float64: features reach hundreds, and the order of fp32 additions (threads, CPU) alone moves them by .0011.
    """
    file = data / "weights/torch/squeezenet1_0-deepcompression.pth"
    spec = Torchvision("squeezenet1_0", returns=("features.12",), frozen_stages=0)
    backbone = spec.build()
    load_network_file(backbone, file, known=backbone.known, what="squeezenet1_0")
    stored = np.load(data / "weights/reference/squeezenet1_0.npz")
    top5 = json.loads((data / "weights/reference/squeezenet1_0.json").read_text())["top5"]
    names = SqueezeNet1_0_Weights.IMAGENET1K_V1.meta["categories"]
    last = {name: tensor.double() for name, tensor in torch.load(file, weights_only=True).items()}
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    for photo in ("dog", "eagle"):
        (features,) = backbone.eval().double()((pixels(stored[f"input_{photo}"]) - mean).double() / std)
        assert (features[0] - torch.from_numpy(stored[f"features_{photo}"])).abs().max() <= 1e-3
        scored = nn.functional.conv2d(features, last["classifier.1.weight"], last["classifier.1.bias"])
        logits = scored.relu().mean((0, 2, 3))
        assert (logits - torch.from_numpy(stored[f"logits_{photo}"])).abs().max() <= 1e-3
        best = logits.softmax(0).topk(5)
        assert [names[k] for k in best.indices] == [name for name, _ in top5[f"{photo}.jpg"]]
        assert best.values.tolist() == pytest.approx([score for _, score in top5[f"{photo}.jpg"]], abs=1e-3)


def random_network(net: Net, returns: list[int], *, raw: Collection[int] = ()) -> DarknetNetwork:
    """Weights and statistics that keep the numbers of a deep network near 1."""
    torch.manual_seed(0)
    network = DarknetNetwork(net, returns, eps=1e-6, raw=raw).eval()
    rng = torch.Generator().manual_seed(3)
    calm = 0.75 if any(layer.kind == "shortcut" for layer in net.layers) else 1.0  # every sum makes numbers larger
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.8 * calm, 1.2 * calm, generator=rng)
            module.bias.data.uniform_(-0.2, 0.2, generator=rng)
            module.running_mean.data.uniform_(-0.1, 0.1, generator=rng)  # type: ignore[union-attr]
            module.running_var.data.uniform_(0.5, 1.5, generator=rng)  # type: ignore[union-attr]
    return network


@pytest.mark.parametrize(("name", "side"), [("yolov2", 96), ("yolov2-tiny", 96), ("yolov3", 96), ("yolov3-tiny", 96)])
@torch.no_grad()
def test_classic_networks_match_opencv(name: str, side: int, data: Path, tmp_path: Path) -> None:
    """Random weights through OpenCV 4's importer: raw outputs within 1e-3, of YOLOv2 also its reorg layer's order.

    The layers before [region] and [yolo] are compared, so that the thresholds of neither matter (systems.md, 5.4).
    """
    python = os.environ.get("FOVEAL_OPENCV4")
    if not python:
        pytest.skip("set FOVEAL_OPENCV4 to the python of an environment with opencv-python-headless<5")
    text = (data / f"weights/darknet-cfg/{name}.cfg").read_text()
    text = re.sub(r"^(width|height)=\d+", rf"\1={side}", text, flags=re.M)
    net = read_net(text)
    heads = [head.sources[0] for head in net.heads]
    extra = [layer.index for layer in net.layers if layer.kind == "reorg"]
    network = random_network(net, heads + extra)
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(4))
    files = [tmp_path / f for f in ("n.cfg", "n.weights", "x.npy", "out.npz")]
    files[0].write_text(text)
    write_darknet(files[1], net, network.state_dict())
    np.save(files[2], x.numpy())
    layers = [str(k) for k in heads] + [f"reorg_{k}" for k in extra]
    script = Path(__file__).parents[2] / "helpers" / "darknet_opencv4.py"
    subprocess.run([python, str(script), *map(str, files), *layers], check=True, env={"PATH": os.environ["PATH"]})
    peer = np.load(files[3])
    assert str(peer["version"]).startswith("4.")
    for mine, layer in zip(network(x), layers, strict=True):
        theirs = torch.from_numpy(peer[layer])
        assert mine.shape == theirs.shape
        assert mine.std() > 0.05, "too quiet to compare"
        difference = (mine - theirs).abs().max()
        print(f"{name} layer {layer}: {difference:.1e} of {mine.abs().max():.2f}")
        assert difference <= 1e-3


# ------------------------------------------------------------------------------------------------------ layers
def outputs(layers: str, x: Tensor, net: str = NET) -> Tensor:
    described = read_net(net + layers)
    network = DarknetNetwork(described, [len(described.layers) - 1]).eval()
    with torch.no_grad():
        (out,) = network(x)
    assert tuple(out.shape[1:]) == described.layers[-1].shape or x.shape[2:] != (described.height, described.width)
    return out


def counting(c: int = 3, side: int = 8) -> Tensor:
    return torch.arange(float(c * side * side)).view(1, c, side, side)


def test_max_pool_pads_right_and_below() -> None:
    """Size 2 stride 1 keeps the size: the last column is its own window. Size 2 stride 2 rounds odd sides up."""
    x = counting()
    same = outputs("[maxpool]\nsize=2\nstride=1\n", x)
    assert torch.equal(same[..., :-1, :-1], x[..., 1:, 1:])
    assert torch.equal(same[..., -1, -1], x[..., -1, -1])
    odd = outputs("[maxpool]\nsize=2\nstride=2\n", counting(3, 7), NET.replace("8", "7"))
    assert odd[0, 0].tolist() == [[8, 10, 12, 13], [22, 24, 26, 27], [36, 38, 40, 41], [43, 45, 47, 48]]
    negative = outputs("[maxpool]\nsize=5\nstride=1\n", -1 - x)
    assert negative.max() == -1 and negative.shape == x.shape  # padding is -infinity, not 0


def test_reorg_has_darknets_order() -> None:
    """``reorg_cpu`` of Darknet's blas.c, written out: in memory, out[i + w (j + h k)] = x[w2 + w s (h2 + h s c2)]."""
    c, h, w, s = 8, 4, 6, 2
    x = torch.randn(2, c, h, w)
    expected = torch.empty(2, c * h * w)
    for b in range(2):
        flat = x[b].flatten()
        for k in range(c):
            c2, offset = k % (c // (s * s)), k // (c // (s * s))
            for j in range(h):
                for i in range(w):
                    w2, h2 = i * s + offset % s, j * s + offset // s
                    expected[b, i + w * (j + h * k)] = flat[w2 + w * s * (h2 + h * s * c2)]
    found = ReorgModule(s)(x)
    assert torch.equal(found, expected.view(2, c * s * s, h // s, w // s))
    assert torch.equal(ReorgModule(s)(x.to(memory_format=torch.channels_last)), found)
    assert not torch.equal(found, nn.functional.pixel_unshuffle(x, s))


def test_route_shortcut_upsample_and_crop() -> None:
    x = counting(2).repeat(1, 2, 1, 1)[:, :3]
    pool = "[maxpool]\nsize=1\nstride=1\n"  # the identity, as the layer to refer to
    pooled = outputs(pool + "[maxpool]\nsize=2\nstride=2\n[upsample]\nstride=2\n[route]\nlayers=-1,0\n", x)
    assert torch.equal(pooled[:, 3:], x)
    assert pooled[0, 0, :2, :2].tolist() == [[9, 9], [9, 9]]
    both = outputs(pool + "[route]\nlayers=-1,-1\n[route]\nlayers=-1\ngroups=2\ngroup_id=1\n", x)
    assert torch.equal(both, x)
    assert torch.equal(outputs(pool + pool + "[shortcut]\nfrom=-2\nactivation=linear\n", x), 2 * x)
    assert torch.equal(outputs(pool + pool + "[shortcut]\nfrom=-2\nactivation=leaky\n", -x), -0.2 * x)
    cropped = outputs("[crop]\ncrop_width=4\ncrop_height=2\n", x)
    assert torch.equal(cropped, 2 * x[:, :, 3:5, 2:6] - 1)
    assert torch.equal(outputs("[upsample]\nstride=2\nscale=.5\n", x)[..., ::2, ::2], 0.5 * x)
    assert torch.equal(outputs("[dropout]\nprobability=.5\n[cost]\ntype=sse\n", x), x)
    assert outputs("[avgpool]\n[softmax]\ngroups=1\n", x).sum() == pytest.approx(1)


def test_connected_and_local() -> None:
    """Local is a convolution at each location: the same weights everywhere make it one."""
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    layers = (
        "[local]\nfilters=5\nsize=3\nstride=2\npad=1\nactivation=linear\n[connected]\noutput=4\nactivation=linear\n"
    )
    net = read_net(NET + layers)
    network = DarknetNetwork(net, [0, 1]).eval()
    local, connected = network.layers
    weight = torch.randn(5, 3, 3, 3)
    local.weight.data = weight.flatten(1).expand(16, -1, -1).clone()
    with torch.no_grad():
        maps = network(x)
    torch.testing.assert_close(maps[0], nn.functional.conv2d(x, weight, stride=2, padding=1))
    torch.testing.assert_close(maps[1][..., 0, 0], maps[0].flatten(1) @ connected.linear.weight.T, rtol=1e-4, atol=1e-5)


def test_activations() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 1.0, 9.0])
    expected = {
        "leaky": [-0.2, -0.05, 0, 1, 9],
        "relu": [0, 0, 0, 1, 9],
        "relu6": [0, 0, 0, 1, 6],
        "logistic": (1 / (1 + (-x).exp())).tolist(),
        "swish": (x / (1 + (-x).exp())).tolist(),
        "mish": (x * (1 + x.exp()).log().tanh()).tolist(),
        "hard_mish": [0, -0.375, 0, 1, 9],  # x^2 / 2 + x from -2 to 0
        "loggy": (2 / (1 + (-x).exp()) - 1).tolist(),
        "ramp": [-0.2, -0.05, 0, 1.1, 9.9],
        "relie": [-0.02, -0.005, 0, 1, 9],
        "hardtan": [-1, -0.5, 0, 1, 1],
        "lhtan": [-0.002, -0.0005, 0, 1, 1.008],
        "plse": [0.25, 0.4375, 0.5, 0.625, 1.05],
        "stair": [-1, -0.5, 0, 0, 4],  # floor(x / 2), and between odd and even numbers the ramp up to the next
    }
    for name, values in expected.items():
        made = activation(name)
        assert made is not None
        assert made(x.clone()).tolist() == pytest.approx(values, abs=1e-6), name
    assert activation("linear") is None
    maps = torch.tensor([[[[3.0]], [[-1.0]], [[1.0]]]])
    normalized = activation("normalize_channels")
    assert normalized is not None
    assert normalized(maps).flatten().tolist() == pytest.approx([3 / 4.0001, 0, 1 / 4.0001])
    for name in ("normalize_channels_softmax", "normalize_channels_softmax_maxval"):
        softmax = activation(name)
        assert softmax is not None
        assert softmax(maps).flatten().tolist() == pytest.approx(maps.softmax(1).flatten().tolist(), abs=1e-3)
    for name in ACTIVATIONS:
        made = activation(name, inplace=False)
        before = x.clone()
        assert made is None or "normalize" in name or made(before).shape == x.shape
        assert torch.equal(before, x)


def test_folded_and_resized(data: Path) -> None:
    """Every norm is folded into its convolution; other input sizes need no other network."""
    cfg, weights = (data / "weights" / part for part in REFERENCES["yolo-fastest-1.1-xl"])
    _, network = loaded(cfg, weights, 1e-5)
    quick = fold_norms(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in quick.modules())
    with torch.no_grad():
        x = torch.rand(1, 3, 128, 160)
        for mine, theirs in zip(quick(x), network(x), strict=True):
            assert (mine - theirs).abs().max() <= 1e-3
    assert [m.shape[2:] for m in quick(x)] == [(4, 5), (8, 10)]


# ---------------------------------------------------------------------------------------------------- backbone
def test_classifiers_as_backbones(data: Path) -> None:
    """Channels before each halving; the classifier's convolution and pooling are no features."""
    cfgs = data / "weights/darknet-cfg"
    tiny = str(data / "weights/tiny-darknet/tiny.cfg")
    for cfg, channels in (
        (tiny, (128, 256, 128)),
        (str(cfgs / "darknet19.cfg"), (128, 256, 512, 1024)),
        (str(cfgs / "darknet53.cfg"), (128, 256, 512, 1024)),
    ):
        with torch.device("meta"):
            backbone = Darknet(cfg).build()
        assert backbone.strides == (4, 8, 16, 32)[: len(channels)]
        assert backbone.channels == channels
    # systems.md: 41,609,928 parameters with the classifier, 1024 x 1000 + 1000
    assert sum(p.numel() for p in backbone.parameters()) == 41_609_928 - 1_025_000


def test_backbone_on_the_command_line(data: Path) -> None:
    """A path becomes the text when it is read, so a stored spec is self-contained; it prints and parses back."""
    folder = data / "weights/tiny-darknet"
    cfg, weights = folder / "tiny.cfg", folder / "tiny.weights"
    words = [f'backbone=Darknet("{cfg}", weights="{weights}", frozen_stages=2)', "input.mean=(0,0,0)"]
    spec = override(presets.retinanet_mini, words)
    assert spec.backbone == Darknet(cfg.read_text(), weights=str(weights), frozen_stages=2)  # type: ignore[attr-defined]
    assert parse_spec(show(spec)) == spec == parse_spec(repr(spec))
    detector = spec.build(["a", "b"])
    spec.load_pretrained(detector)
    stored = read_darknet(weights, read_net(cfg.read_text()))[1]
    state = detector.get_submodule("backbone").state_dict()
    assert all(torch.equal(state[key], stored[key]) for key in state if "num_batches" not in key)
    still = {name.split(".")[2] for name, p in detector.named_parameters() if not p.requires_grad}
    assert still == {"0", "2"}  # strides 1 and 2: the convolutions before the second max-pool
    losses = detector(
        [torch.rand(3, 96, 96)], [{"boxes": torch.tensor([[9.0, 9, 60, 60]]), "labels": torch.tensor([0])}]
    )
    sum(losses.values()).backward()  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"backbone: Darknet.*none\.cfg.*cannot be read"):
        override(presets.retinanet_mini, ['backbone=Darknet("none.cfg")'])
    with pytest.raises(UsageError, match=r"backbone: Darknet.*line 1 \[yes\]"):
        override(presets.retinanet_mini, ['backbone=Darknet("[yes]\\n")'])


def test_backbone_norms_layers_and_partial_weights(data: Path, tmp_path: Path) -> None:
    folder = data / "weights/tiny-darknet"
    text, net = (folder / "tiny.cfg").read_text(), read_net((folder / "tiny.cfg").read_text())
    frozen = Darknet(text, weights=str(folder / "tiny.weights"), returns=("layers.14",), norm="frozen")
    backbone = frozen.build()
    assert len(backbone.layers) == 15
    frozen.load_pretrained(backbone)
    network = loaded(folder / "tiny.cfg", folder / "tiny.weights", 1e-5)[1]
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole = nn.Sequential(*network.layers[:15])(x)
        torch.testing.assert_close(backbone(x)[0], whole, rtol=1e-4, atol=1e-4)
    ends = 20 + 4 * sum(layer.floats for layer in net.layers[:15])
    whole_file = tmp_path / "whole.weights"
    write_darknet(whole_file, net, network.state_dict())
    part = tmp_path / "tiny.conv.15"
    part.write_bytes(whole_file.read_bytes()[:ends])
    again = Darknet(text, returns=("layers.14",)).build()
    Darknet(text).load_pretrained(again, part)
    assert torch.equal(again.layers[14][0].weight, network.layers[14][0].weight)  # type: ignore[index]
    with pytest.raises(FovealError, match="floats after its header"):
        Darknet(text).load_pretrained(Darknet(text).build(), part)
    with pytest.raises(UsageError, match=r"no layer 'layers\.99'"):
        Darknet(text, returns=("layers.99",)).build()
    with pytest.raises(UsageError, match="no layer 7"):
        Darknet(text, returns=(7,)).build()
    with pytest.raises(UsageError, match="5 stages, frozen_stages is 9"):
        Darknet(text, frozen_stages=9).build()
