"""A residual block of plain convolutions and norms, as DSSD's modules use it."""

from __future__ import annotations

from torch import Tensor, nn

from .norms import NormKind, init_xavier, norm_conv


class Residual(nn.Module):
    """ReLU(F(x) + shortcut(x)): three convolutions of these ``widths`` and ``kernels`` beside a fourth.

    The middle one has the stride and padding; the shortcut its kernel too, so that both ends agree whatever it is.
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
