"""Which of the two forms of a part runs: the CPU's, which may look at values, or the one that never waits."""

from __future__ import annotations

import torch
from torch import Tensor


def on_cpu(tensor: Tensor) -> bool:
    """Whether the values of the tensor can be read without a device sync: on a CPU, and not while compiling."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
