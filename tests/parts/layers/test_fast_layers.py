"""Fast forms of layers against PyTorch's own: the same outputs and gradients, the same keys."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal import presets
from foveal.config.overrides import override
from foveal.parts.layers import fast_layers
from foveal.parts.layers.fast_layers import FastConv, FastGroupNorm, FastReLU6, use_fast_layers
from tests.presets.test_slots import batch


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a CPU for which they were not measured."""
    monkeypatch.setattr(fast_layers, "has_fast_kernels", lambda: True)
    torch.manual_seed(0)


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, and the gradients of its weighted sum by input and parameters."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = layer(x)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
    found = torch.autograd.grad((out * weights).sum(), [x, *layer.parameters()])
    return [out.detach(), *found]


def close(found: list[Tensor], expected: list[Tensor], bound: float) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert float((a - b).abs().max()) <= bound * float(b.abs().max()) + 1e-6


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "groups"),
    [
        (8, 3, 1, 1, 8),
        (8, 3, 2, 1, 8),
        (8, 5, 1, 2, 8),
        (8, 5, 2, 2, 8),
        (8, 5, 1, 0, 8),
        (8, 5, 2, 1, 8),
        (8, 3, 2, 0, 8),
        (8, 3, 2, 2, 8),
        (8, 7, 1, 3, 8),
        (8, 3, 1, 1, 2),
    ],
)
@pytest.mark.parametrize("size", [(12, 16), (11, 16), (12, 15), (2, 4), (9, 7)])
def test_convolutions(
    channels: int, kernel: int, stride: int, padding: int, groups: int, bias: bool, size: tuple[int, int]
) -> None:
    if min(size) + 2 * padding < kernel:
        return
    plain = nn.Conv2d(channels, 8, kernel, stride, padding, groups=groups, bias=bias)
    x = torch.randn(3, channels, *size).to(memory_format=torch.channels_last)
    for layout in (torch.channels_last, torch.contiguous_format):
        x = x.contiguous(memory_format=layout)
        close(gradients(FastConv(plain), x), gradients(plain, x), 1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"), [(1, 1, 0, 1), (1, 2, 0, 1), (1, 1, 0, 4), (3, 1, 1, 1)]
)
def test_cells(kernel: int, stride: int, padding: int, groups: int) -> None:
    """Only a 1 x 1 convolution of stride 1 is dilated, which changes nothing for one cell."""
    plain = nn.Conv2d(8, 12, kernel, stride, padding, groups=groups)
    block = nn.Sequential(copy.deepcopy(plain))
    use_fast_layers(block)
    assert (block[0].dilation == (2, 2)) == ((kernel, stride, groups) == (1, 1, 1))
    x = torch.randn(3, 8, 6, 8).to(memory_format=torch.channels_last)
    close(gradients(block[0], x), gradients(plain, x), 1e-5)


def padded_as_in_tensorflow(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """By the definition: the output has ceil(size / stride) cells; uneven padding is more below and on the right."""
    total = [
        max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(x.shape[2:], conv.stride, conv.kernel_size, strict=True)
    ]
    (y, x_), (height, width) = (n // 2 for n in total), total
    x = F.pad(x, (x_, width - x_, y, height - y))
    return F.conv2d(x, conv.weight, conv.bias, conv.stride, groups=conv.groups)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("groups", [8, 1])
@pytest.mark.parametrize("size", [(12, 16), (11, 16), (12, 15), (11, 15), (4, 4), (2, 2), (1, 1)])
def test_padding_as_in_tensorflow(kernel: int, groups: int, size: tuple[int, int]) -> None:
    conv = nn.Conv2d(8, 8, kernel, 2, groups=groups)
    ours, theirs = FastConv(conv, same=True), copy.deepcopy(conv)
    theirs.forward = lambda x: padded_as_in_tensorflow(theirs, x)  # type: ignore[method-assign]
    x = torch.randn(2, 8, *size).to(memory_format=torch.channels_last)
    close(gradients(ours, x), gradients(theirs, x), 1e-5)
    with torch.no_grad():
        assert ours(x).shape[2:] == tuple(-(-n // 2) for n in size)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise_in_bf16(kernel: int, stride: int) -> None:
    """Under autocast as in training: no further from fp32 than the rounding of bf16, 2^-8 of the largest value."""
    conv = nn.Conv2d(16, 16, kernel, stride, kernel // 2, groups=16)
    x = torch.randn(2, 16, 12, 16).to(torch.bfloat16).to(memory_format=torch.channels_last)
    exact = gradients(conv, x.float())

    def run(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return FastConv(conv)(x)  # type: ignore[no-any-return]

    layer = copy.deepcopy(conv)
    layer.forward = run  # type: ignore[method-assign]
    x = x.requires_grad_()
    out = run(x)
    assert out.dtype == torch.bfloat16
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape)
    found = torch.autograd.grad((out.float() * weights).sum(), [x, *conv.parameters()])
    for a, b in zip(found, exact[1:], strict=True):
        assert float((a.float() - b).abs().max()) <= 2**-7 * float(b.abs().max())


def test_relu6_in_place() -> None:
    x = torch.tensor([-1.0, 0.0, 3.0, 6.0, 7.0, float("nan")])
    for layer in (FastReLU6(), nn.ReLU6()):
        y = (leaf := x.clone().requires_grad_()) * 1
        out = layer(y)
        out.backward(torch.arange(1.0, 7))
        assert leaf.grad is not None and leaf.grad.tolist()[:5] == [0, 0, 3, 0, 0]
        assert out.tolist()[:5] == [0, 0, 3, 6, 6] and out[5].isnan()
        assert (out.data_ptr() == y.data_ptr()) == isinstance(layer, FastReLU6)


def test_group_norm_in_bf16() -> None:
    plain = nn.GroupNorm(4, 16)
    x = torch.randn(2, 16, 6, 8).to(torch.bfloat16).to(memory_format=torch.channels_last)
    with torch.no_grad():
        plain.weight.uniform_(0.5, 2)
    exact, found = gradients(plain, x.float()), gradients(FastGroupNorm(plain), x)
    assert found[0].dtype == torch.bfloat16
    for a, b in zip(found, exact, strict=True):
        assert float((a.float() - b).abs().max()) <= 2**-7 * float(b.abs().max())


@pytest.mark.parametrize(
    "backbone", ["Torchvision('mobilenet_v3_small')", "Torchvision('efficientnet_b0')", "Timm('tf_efficientnet_lite0')"]
)
def test_a_detector_is_the_same(backbone: str) -> None:
    """Parameters and keys too; activations that copy for their gradient are out of place in training alone."""
    if backbone.startswith("Timm"):
        pytest.importorskip("timm", reason="timm is not installed")
    detector = override(presets.retinanet_mini, [f"backbone={backbone}"]).build(("a", "b", "c")).eval()
    detector.to(memory_format=torch.channels_last)
    plain, fast = detector, copy.deepcopy(detector)
    use_fast_layers(fast, narrow=True)
    assert list(plain.state_dict()) == list(fast.state_dict())
    assert [n for n, p in plain.named_parameters() if p.requires_grad] == [
        n for n, p in fast.named_parameters() if p.requires_grad
    ]
    assert sum(isinstance(m, FastConv) for m in fast.modules()) >= 5
    assert any(isinstance(m, FastGroupNorm) for m in fast.modules())
    images, targets = batch((2, 0))
    found = []
    for one in (plain, fast):
        losses = one(images, targets)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        found.append((total.detach(), {n: p.grad for n, p in one.named_parameters() if p.grad is not None}))
    (a, grads), (b, fast_grads) = found
    assert float((a - b).abs() / a) <= 1e-5 and grads.keys() == fast_grads.keys()
    for name, grad in grads.items():
        assert float((grad - fast_grads[name]).abs().max()) <= 1e-3 * float(grad.abs().max()) + 1e-6, name
