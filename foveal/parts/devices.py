"""Whether a part runs its CPU form, which may read values, or its device form, which never waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def on_cpu(tensor: Tensor) -> bool:
    """Whether the values of the tensor can be read without a device sync: on a CPU, and not while compiling."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
