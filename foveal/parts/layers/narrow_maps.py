"""Computes strided convolutions with an output one cell wide in fp32, as a CPU may compute them wrongly in bf16.

oneDNN 3.12 (torch 2.14.1) is wrong in two cases on a CPU with bf16 arithmetic (AVX-512, AMX), both with a stride
above 1 and an output one cell wide. Where a column of the kernel meets padding alone (3 x 3, padding 1, one cell), that
column of the weight gradient is uninitialized memory. Where the output is one cell wide and several high, all rows but
the first are wrong, in inference too. Of a transposed convolution, which is the same with input and output exchanged,
the gradients are wrong. Wider maps, stride 1 and fp32 are right: ``benchmarks/narrow_maps.py`` lists what a CPU
computes wrongly.

Such maps are at the top of a pyramid (P7 of an image of 64 pixels), where fp32 costs nothing.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


def is_narrow(small: Tensor) -> bool:
    """Whether a map (B, c, H, W) is one cell wide or high. Only the width is known to matter."""
    return 1 in small.shape[-2:]


def guard_narrow(module: nn.Module) -> None:
    """Makes every strided convolution below ``module`` compute narrow maps in fp32, in place.

    It takes effect only on a CPU in bf16 or fp16, by autocast or by the dtype of the weights, which is also that of the
    result. Guarded layers, parameters and their names are unchanged.
    """
    for layer in module.modules():
        strided = isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and max(layer.stride) > 1
        if strided and _again not in layer._forward_hooks.values():
            layer.register_forward_hook(_again)


def _again(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
    """A forward hook: the output in fp32 arithmetic where the map is narrow; otherwise None (no change)."""
    x: Tensor = args[0]
    small = x if isinstance(layer, nn.ConvTranspose2d) else output
    if output.dtype not in HALF or output.device.type != "cpu" or not is_narrow(small):
        return None
    full = copy.copy(layer)  # shares everything; the layer itself is not changed, as others may be using it
    full._parameters = {n: p if p is None else cast(nn.Parameter, p.float()) for n, p in layer._parameters.items()}
    with torch.autocast("cpu", enabled=False):
        result: Tensor = full.forward(x.float(), *args[1:])
    return result.to(output.dtype)
