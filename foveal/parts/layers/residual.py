"""The residual block of SSD's and DSSD's extra maps and prediction modules."""

from __future__ import annotations

from torch import Tensor, nn

from .norms import NormKind, init_xavier, norm_conv


class Residual(nn.Module):
    """ReLU(F(x) + shortcut(x)): (B, inputs, H, W) -> (B, widths[-1], h, w); F is three convolutions of these ``widths``
    and ``kernels``, the shortcut a fourth.

    The middle one has the stride and padding; the shortcut has its kernel too, so that both outputs have one size.
    """

    def __init__(
        self,
        inputs: int,
        widths: tuple[int, int, int],
        kernels: tuple[int, int, int],
        stride: int,
        padding: int,
        norm: NormKind | None,
        eps: float | None,
    ) -> None:
        super().__init__()
        first, middle, last = widths
        self.first = norm_conv(inputs, first, kernels[0], norm=norm, eps=eps)
        self.second = norm_conv(first, middle, kernels[1], stride=stride, padding=padding, norm=norm, eps=eps)
        self.third = norm_conv(middle, last, kernels[2], norm=norm, eps=eps, act=None)
        self.shortcut = norm_conv(
            inputs, last, kernels[1], stride=stride, padding=padding, norm=norm, eps=eps, act=None
        )
        init_xavier(self)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.third(self.second(self.first(x))) + self.shortcut(x)
        return y.relu_()
