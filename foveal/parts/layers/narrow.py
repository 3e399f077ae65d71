"""Strided convolutions whose small map is one cell wide, in fp32: in bf16 a processor may compute them wrongly.

oneDNN 3.12 (torch 2.14.1) gets two cases wrong on a processor with bf16 arithmetic (AVX-512, AMX), both with a stride
above 1 and an output one cell wide. Where a column of the kernel meets padding alone (3 x 3, padding 1, one cell), that
column of the weight gradient is memory that nobody wrote. Where the output is one cell wide and several high, all
rows but the first are wrong, in inference too. A transposed convolution, which is the same with input and output
exchanged, gets its gradients wrong. Wider maps, stride 1 and fp32 are right: ``benchmarks/narrow_maps.py`` lists what a
processor gets wrong.

Such maps stand at the top of a pyramid (P7 of a picture of 64 pixels), so that fp32 costs nothing there.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


def is_narrow(small: Tensor) -> bool:
    """Whether a map (B, c, H, W) is one cell wide or high. Only width is known to matter; height is to be safe."""
    return 1 in small.shape[-2:]


def guard_narrow(module: nn.Module) -> None:
    """Lets every strided convolution below ``module`` compute narrow maps in fp32, in place.

    Takes effect on a processor in bf16 or fp16 alone, by autocast or by the weights' own number format; the result
    keeps that format. Layers that were guarded before stay as they are; parameters and their names do too.
    """
    for layer in module.modules():
        strided = isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)) and max(layer.stride) > 1
        if strided and _again not in layer._forward_hooks.values():
            layer.register_forward_hook(_again)


def _again(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
    """A forward hook: the output in fp32 arithmetic where the map is narrow; else None, which leaves it as it is."""
    x: Tensor = args[0]
    small = x if isinstance(layer, nn.ConvTranspose2d) else output
    if output.dtype not in HALF or output.device.type != "cpu" or not is_narrow(small):
        return None
    full = copy.copy(layer)  # shares everything; the layer itself is not touched, for others may be using it
    full._parameters = {n: p if p is None else cast(nn.Parameter, p.float()) for n, p in layer._parameters.items()}
    with torch.autocast("cpu", enabled=False):
        result: Tensor = full.forward(x.float(), *args[1:])
    return result.to(output.dtype)
