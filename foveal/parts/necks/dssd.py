"""DSSD's deconvolution modules: the top-down path from coarse maps to fine ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError, at_least
from ..layers.norms import NormKind, init_xavier, norm_conv


class Gap(NamedTuple):
    """The geometry of the deconvolution that inverts one step from a map to the next coarser one."""

    kernel: int
    stride: int
    padding: int

    @classmethod
    def between(cls, fine: int, coarse: int) -> Gap:
        """Between maps of these strides."""
        ratio = max(1, round(coarse / fine))
        return cls(ratio, ratio, 0)

    @classmethod
    def back(cls, kernel: int, stride: int, padding: int) -> Gap:
        """The inverse of a convolution: transposed where it only cuts the border, otherwise ``stride`` times larger."""
        return cls(kernel, 1, padding) if stride == 1 else cls(stride, stride, 0)


@dataclass(frozen=True)
class Deconvolution:
    """DSSD's deconvolution modules (Fu et al. 2017, figure 3): from the coarsest map to the finest, each map is
    combined with the upsampled output of the coarser one. The coarsest map is unchanged."""

    channels: int = 512
    combine: Literal["product", "sum"] = "product"
    norm: NormKind | None = "batch"
    eps: float | None = 1e-3  # of the norms

    def __post_init__(self) -> None:
        if self.combine not in ("product", "sum"):
            raise UsageError(f"Deconvolution: combine is {self.combine!r}, not one of product, sum")
        at_least(self, 1, "channels")

    def build(self, channels: Sequence[int], gaps: Sequence[Gap]) -> TopDown:
        """For maps of these channels, finest first, and the gaps between them. ``UsageError`` for a single map."""
        if len(channels) < 2:
            raise UsageError("Deconvolution combines coarse maps with finer ones, but there is only one map")
        return TopDown(self, channels, gaps)


class TopDown(nn.Module):
    """Maps [(B, c, h, w), ...], finest first -> as many, of ``channels`` channels but for the last."""

    def __init__(self, spec: Deconvolution, channels: Sequence[int], gaps: Sequence[Gap]) -> None:
        super().__init__()
        above = [*[spec.channels] * (len(channels) - 2), channels[-1]]
        self.steps = nn.ModuleList(
            _Step(spec, fine, coarse, gap) for fine, coarse, gap in zip(channels[:-1], above, gaps, strict=True)
        )
        self.channels = (*[spec.channels] * (len(channels) - 1), channels[-1])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        outputs = [maps[-1]]
        for step, fine in zip(reversed(self.steps), reversed(maps[:-1]), strict=True):
            outputs.append(step(fine, outputs[-1]))
        return outputs[::-1]


class _Step(nn.Module):
    """A map (B, c, h, w) and the coarser output -> ReLU of their product or sum (B, width, h, w)."""

    def __init__(self, spec: Deconvolution, fine: int, coarse: int, gap: Gap) -> None:
        super().__init__()
        width, norm = spec.channels, {"norm": spec.norm, "eps": spec.eps}
        self.gap, self.product = gap, spec.combine == "product"
        self.up = nn.ConvTranspose2d(coarse, width, gap.kernel, gap.stride, gap.padding)
        self.after = norm_conv(width, width, act=None, **norm)  # type: ignore[arg-type]
        first, second = norm_conv(fine, width, **norm), norm_conv(width, width, act=None, **norm)  # type: ignore[arg-type]
        self.skip = nn.Sequential(first, second)
        init_xavier(self)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        up, skip = self.after(self._enlarged(coarse, fine.shape[-2], fine.shape[-1])), self.skip(fine)
        return (up * skip if self.product else up + skip).relu_()  # type: ignore[no-any-return]

    def _enlarged(self, x: Tensor, height: int, width: int) -> Tensor:
        """Upsampled to (height, width): cropped where the coarser side was rounded up, extended where rounded down."""
        target, kernel, stride, padding = (height, width), *self.gap
        smallest = [(int(s) - 1) * stride - 2 * padding + kernel for s in x.shape[-2:]]
        size = [min(max(n, side), n + stride - 1) for n, side in zip(smallest, target, strict=True)]
        x = self.up(x, size)[..., :height, :width]
        return x if x.shape[-2:] == target else F.interpolate(x, target, mode="nearest")
