"""Cards of torchvision's and timm's checkpoints, and the pixels that their networks expect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision

from foveal.errors import UsageError
from foveal.parts.backbones.timm import Timm
from foveal.parts.backbones.torchvision import Torchvision
from foveal.parts.resizing import CAFFE_PIXELS, IMAGENET_PIXELS
from foveal.weights.cache import find_published, is_published
from foveal.weights.library_cards import timm_file_pixels, torchvision_pixels

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_every_torchvision_network_has_a_card() -> None:
    """Except the vision transformers, which are no backbones; the facts are torchvision's own."""
    names = torchvision.models.list_models(module=torchvision.models)
    names = [name for name in names if not name.startswith(("vit_", "maxvit"))]
    for name in names:
        card = find_published(f"torchvision/{name}")
        assert card.sha256 and card.url.startswith("https://") and card.megabytes > 1 and (card.score or 0) > 50
    assert len(names) > 60
    second = find_published("torchvision/resnet50.IMAGENET1K_V2")
    assert (second.file, round(second.score or 0)) == ("resnet50-11ad3fa6.pth", 81)
    assert is_published("torchvision/resnet18") and not is_published("torchvison/resnet18")


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match=r"'resnet19' is not one of torchvision's classification networks\. Did you"):
        find_published("torchvision/resnet19")
    with pytest.raises(UsageError, match=r"no weights 'V2' of resnet50\. Use one of IMAGENET1K_V1, IMAGENET1K_V2"):
        find_published("torchvision/resnet50.V2")


def test_pixels_of_torchvision() -> None:
    assert Torchvision("resnet18").pixels == IMAGENET_PIXELS
    assert Torchvision("efficientnet_v2_l").pixels == HALF
    assert Torchvision("vgg16").pixels == IMAGENET_PIXELS
    assert Torchvision("nonsense").pixels == IMAGENET_PIXELS  # an error once it is built
    for weights in ("vgg16_features", "some/vgg16_features-amdegroot-88682ab5.pth"):  # nothing is looked up
        assert Torchvision("vgg16", weights=weights).pixels == CAFFE_PIXELS
    mean, std = Torchvision("vgg16", weights="torchvision/vgg16.IMAGENET1K_FEATURES").pixels
    assert mean == pytest.approx(CAFFE_PIXELS[0], rel=1e-3) and std == pytest.approx(CAFFE_PIXELS[1])


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_pixels_of_networks_that_normalize_again(name: str) -> None:
    """torchvision's own forward converts pixels that were normalized for ImageNet, and what its layers get is ours."""
    network = torchvision.models.get_model(name, weights=None, init_weights=False, transform_input=True)
    pixels = torch.rand(1, 3, 8, 8)
    mean, std = (torch.tensor(v)[:, None, None] for v in IMAGENET_PIXELS)
    expected = network._transform_input((pixels - mean) / std)
    mean, std = (torch.tensor(v)[:, None, None] for v in torchvision_pixels(name) or IMAGENET_PIXELS)
    torch.testing.assert_close((pixels - mean) / std, expected)


def test_pixels_of_timm() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    assert Timm("tf_efficientnet_lite0").pixels == HALF
    assert Timm("resnet18").pixels == IMAGENET_PIXELS
    assert Timm("inception_resnet_v2").pixels == HALF
    assert Timm("resnet18", weights="timm/resnet18.fb_swsl_ig1b_ft_in1k").pixels == IMAGENET_PIXELS
    assert Timm("nonsense").pixels == IMAGENET_PIXELS
    for name in timm.list_models("*efficientnet_lite*"):
        cfg = timm.get_pretrained_cfg(name)
        assert Timm(name).pixels == (tuple(cfg.mean), tuple(cfg.std))


def test_torchvision_files_of_other_times_are_read(tmp_path: Path) -> None:
    """DenseNets are published with "norm.1" for "norm1"; Inception with the auxiliary classifier of its training."""
    torch.manual_seed(0)
    state = torchvision.models.densenet121().state_dict()
    old = {k: v for k, v in state.items()}
    for key in list(old):
        for layer in ("norm1", "norm2", "conv1", "conv2"):
            if f".{layer}." in key and "denselayer" in key:
                old[key.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}.")] = old.pop(key)
    assert old.keys() != state.keys()
    torch.save(old, f"{tmp_path}/d.pth")
    spec = Torchvision("densenet121", weights=f"{tmp_path}/d.pth")
    body = spec.build()
    spec.load_pretrained(body)
    assert torch.equal(
        body.state_dict()["features.denseblock1.denselayer2.conv1.weight"],
        state["features.denseblock1.denselayer2.conv1.weight"],
    )
    torch.save(torchvision.models.inception_v3(init_weights=False).state_dict(), f"{tmp_path}/i.pth")
    spec = Torchvision("inception_v3", weights=f"{tmp_path}/i.pth")
    spec.load_pretrained(spec.build())


def test_pixels_of_a_timm_file_by_what_identifies_it(tmp_path: Path) -> None:
    """Checkpoints of one network differ: tf_efficientnet_b0's are ImageNet's or halves; some networks have one kind."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    network = "tf_efficientnet_b0"
    kinds = {n: tuple(timm.get_pretrained_cfg(n).mean) for n in timm.list_pretrained(f"{network}.*")}
    assert len(set(kinds.values())) == 2
    for name, mean in kinds.items():
        pixels, sure = timm_file_pixels(network, f"/models/{name}/model.safetensors")
        assert sure and pixels is not None and pixels[0] == mean
    pixels, sure = timm_file_pixels(network, str(tmp_path / "mine.pth"))
    assert pixels is not None and not sure
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}))
    assert timm_file_pixels(network, str(tmp_path / "mine.pth")) == (((0.1,) * 3, (0.2,) * 3), True)
    assert timm_file_pixels("resnet10t", "mine.pth")[1]  # all alike
