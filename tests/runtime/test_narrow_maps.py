"""Strided convolutions over maps one cell wide: computed in fp32 on a CPU, whatever the run's precision."""

from __future__ import annotations

import copy
import ctypes
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.checkpoints.load import ready
from foveal.parts.layers.narrow_maps import guard_narrow
from foveal.parts.layers.norms import fuse_frozen, norm_conv
from foveal.parts.resizing import Resize
from foveal.runtime.precision import fast_bf16
from foveal.types import Target, Targets
from tests.helpers.train_tiny import make_data, train_tiny

HALF = torch.bfloat16
fast = pytest.mark.skipif(not fast_bf16(torch.device("cpu")), reason="this processor computes bf16 by emulation")


@pytest.fixture
def poisoned() -> Iterator[None]:
    """malloc fills every block with 0x7f bytes, 3e38 in bf16 and fp32: uninitialized values stand out."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    perturb = -6
    if mallopt is None or mallopt(perturb, 0x80) != 1:
        pytest.skip("this C library cannot fill what it hands out")
    yield
    mallopt(perturb, 0)


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    return replace(presets.retinanet_mini, input=Resize(64, 64)).build("abc")


def error(found: Tensor, want: Tensor) -> float:
    """The largest difference, relative to the largest expected value; infinite where a value is not finite."""
    worst = float((found.detach().float() - want.detach().float()).abs().max() / want.detach().abs().max())
    return worst if math.isfinite(worst) else math.inf


def strided(kind: str) -> nn.Module:
    """One layer of stride 2 with fp32 parameters."""
    torch.manual_seed(0)
    if kind == "frozen":
        layers = norm_conv(64, 64, stride=2, norm="frozen", act=None)
        fuse_frozen(layers)
        return layers
    if kind == "transposed":
        return nn.ConvTranspose2d(64, 64, 3, 2, 1)
    return nn.Conv2d(64, 64, 3, 2, 1, groups=64 if kind == "depthwise" else 1)


def spread(kind: str, x: Tensor, *, guarded: bool, weights: torch.dtype = torch.float32) -> list[Tensor]:
    """The output under autocast, and the gradients of input and weight."""
    layer = strided(kind).to(weights)
    if guarded:
        guard_narrow(layer)
    x = x.to(weights).requires_grad_()
    with torch.autocast("cpu", HALF, enabled=weights == torch.float32):
        y = layer(x)
    weight = next(p for n, p in layer.named_parameters() if n.endswith("weight"))
    return [y, *torch.autograd.grad(y, (x, weight), torch.ones_like(y))]


# ------------------------------------------------------------------------------------- on every CPU
@pytest.mark.parametrize("kind", ["plain", "depthwise", "frozen", "transposed"])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (16, 1), (1, 16)])
def test_narrow_map_is_computed_in_fp32(kind: str, size: tuple[int, int]) -> None:
    x = torch.randn(2, 64, *size, generator=torch.Generator().manual_seed(1))
    layer = strided(kind)
    want_x = x.clone().requires_grad_()
    want = layer(want_x)
    weight = next(p for n, p in layer.named_parameters() if n.endswith("weight"))
    wanted = torch.autograd.grad(want, (want_x, weight), torch.ones_like(want))
    found = spread(kind, x, guarded=True)
    assert found[0].dtype == HALF  # as the layers around it
    assert torch.equal(found[0], want.to(HALF))  # fp32 up to the rounding of the result: inputs were not rounded
    assert [g.dtype for g in found[1:]] == [torch.float32] * 2
    assert all(torch.equal(f, w) for f, w in zip(found[1:], wanted, strict=True))


@pytest.mark.parametrize("kind", ["plain", "depthwise", "frozen", "transposed"])
def test_wide_map_stays_in_bf16(kind: str) -> None:
    x = torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(1))
    found, bare = spread(kind, x, guarded=True), spread(kind, x, guarded=False)
    assert found[0].dtype == HALF
    assert all(torch.equal(f, b) for f, b in zip(found, bare, strict=True))
    assert error(found[0], strided(kind)(x).to(HALF)) > 0  # fp32 would give another result


def test_weights_in_bf16_are_computed_in_fp32_too() -> None:
    x = torch.randn(2, 64, 16, 1, generator=torch.Generator().manual_seed(1)).to(HALF)
    layer = strided("plain").to(HALF)
    want = copy.deepcopy(layer).float()(x.float()).to(HALF)
    guard_narrow(layer)
    found = layer(x)
    assert torch.equal(found, want)
    assert all(p.dtype == HALF for p in layer.parameters())


def test_strided_layers_are_guarded_once_without_renaming_parameters() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.ConvTranspose2d(8, 8, 2, 2))
    names = list(module.state_dict())
    guard_narrow(module)
    guard_narrow(module)
    assert [len(layer._forward_hooks) for layer in module] == [1, 0, 1]
    assert list(module.state_dict()) == names
    copied = copy.deepcopy(module)
    assert copied(torch.randn(1, 3, 2, 2)).shape == (1, 8, 2, 2)  # fp32: nothing to do


def test_empty_batch_passes() -> None:
    layer = strided("plain")
    guard_narrow(layer)
    with torch.autocast("cpu", HALF):
        assert layer(torch.zeros(0, 64, 1, 1)).shape == (0, 64, 1, 1)


def narrow_layers(detector: nn.Module) -> int:
    return sum(bool(m._forward_hooks) for m in detector.modules())


def test_bf16_detectors_are_guarded_and_fp32_ones_are_not(detector: Detector) -> None:
    assert narrow_layers(ready(detector, "cpu", "bf16")) > 0
    assert narrow_layers(ready(detector, "cpu", "32")) == narrow_layers(detector) == 0


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_training_guards_in_bf16(tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[nn.Module] = []
    monkeypatch.setattr("foveal.training.precision_trial.guard_narrow", seen.append)
    train_tiny(make_data(tmp_path / "data"), tmp_path / "run", precision=precision)
    assert len(seen) == (precision == "bf16")


# ------------------------------------------------------------------------------------------ with fast bf16
def gradients(detector: Detector, *, autocast: bool) -> dict[str, Tensor]:
    """Of a training iteration on two images of 64 x 64 pixels, where P7 is 1 x 1."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    images = detector.train().prepare([image, image])
    targets = Targets.pad([Target(torch.tensor([[5.0, 5, 60, 60]]), torch.tensor([0]))] * 2)
    detector.zero_grad()
    with torch.autocast("cpu", HALF, enabled=autocast):
        losses: dict[str, Any] = detector(images, targets)
    torch.stack(list(losses.values())).sum().backward()
    return {n: p.grad.clone() for n, p in detector.named_parameters() if p.grad is not None}


@fast
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.usefixtures("poisoned")
def test_gradients_of_a_small_image_are_close_to_fp32(detector: Detector, layout: torch.memory_format) -> None:
    detector.to(memory_format=layout)  # type: ignore[call-overload]
    wanted = gradients(detector, autocast=False)
    guard_narrow(detector)
    for _ in range(5):
        found = gradients(detector, autocast=True)
        assert found.keys() == wanted.keys()
        assert max(error(found[n], wanted[n]) for n in wanted) < 1  # noise of bf16 below many batch norms: up to .67
        for name in ("neck.extra_blocks.p6.weight", "neck.extra_blocks.p7.weight"):  # .05 to .06
            assert error(found[name], wanted[name]) < 0.1


@fast
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("kernel", "width"), [(2, 3), (3, 1), (5, 1)])
def test_tall_map_is_correct_in_inference(kernel: int, width: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(256, 256, kernel, 2, kernel // 2 * (kernel % 2)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(2, 256, 33, width)
    with torch.no_grad():
        want = layer(x)
        guard_narrow(layer)
        with torch.autocast("cpu", HALF):
            assert error(layer(x), want) < 0.02
        layer.to(HALF)
        assert error(layer(x.to(HALF)), want) < 0.02
