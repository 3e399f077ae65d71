"""Chooses the device, the floating-point precision and the memory format of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.plugins.precision.precision import Precision as FabricPrecision
from torch import nn

from ..errors import UsageError
from ..recipe import Precision


def find_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is the first GPU where there is one, else the CPU.

    Raises :class:`UsageError` for a device that is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(f"device {name!r} is not available; torch can use {count} GPUs on this machine")
    return device


def fast_bf16(device: torch.device) -> bool:
    """Whether the device has native bf16 arithmetic, not only an emulation that is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags())


def cpu_flags() -> frozenset[str]:
    """The instruction sets of the CPU as Linux names them (x86 ``flags``, Arm ``Features``); empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def cpu_features() -> list[str]:
    """The instruction sets of this CPU that decide which kernels torch takes, and so the last bits of results."""
    known = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16")
    flags = cpu_flags()
    return [name for name in known if name in flags]


def faster(seconds: Mapping[Precision, float]) -> Precision:
    """The format to train in, by the seconds of a pass in each: bf16 where it saves at least 3 %, else 32."""
    return "bf16" if seconds["bf16"] < 0.97 * seconds["32"] else "32"


def choose(asked: str | None, device: torch.device) -> Precision:
    """``asked``, else (None or "auto") bf16 where the device is fast at it, else 32. Raises :class:`UsageError` for an
    unknown precision."""
    if asked in (None, "auto"):
        return "bf16" if fast_bf16(device) else "32"
    if asked not in ("32", "bf16", "16"):
        raise UsageError(f"precision {asked!r} is not one of auto, 32, bf16, 16")
    return asked  # type: ignore[return-value]  # mypy does not narrow a str by membership


def layout(detector: nn.Module, device: torch.device) -> torch.memory_format:
    """The memory format: channels-last, except for large detectors on a CPU with AVX2 alone.

    There the gradients of wide convolutions take a third longer in channels-last; narrow ones gain (measured with
    torch 2.15 on ResNet-50, VGG-16 and the small presets; SSD300 5.0 against 6.8 s, SSDLite .38 against .29).
    """
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    large = sum(p.numel() for p in detector.parameters()) > 10_000_000
    return torch.contiguous_format if slow and large else torch.channels_last


class Mixed(MixedPrecision):
    """Autocast in the forward pass, and nothing else: pixels and boxes stay float32."""

    def convert_input(self, data: Any) -> Any:
        return data

    def convert_output(self, data: Any) -> Any:
        return data


def plugin(precision: Precision, device: torch.device) -> FabricPrecision:
    """Fabric's plugin; with 16 it brings a gradient scaler."""
    if precision == "32":
        return FabricPrecision()
    return Mixed("bf16-mixed" if precision == "bf16" else "16-mixed", device.type)
