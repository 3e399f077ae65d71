"""Darknet's activations as modules, by the names of a cfg."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

_EPS = 1e-4  # added to the sums that channels are normalized by


def activation(name: str, *, inplace: bool = True) -> nn.Module | None:
    """Darknet's activation of that name; none for ``linear``. ``inplace``: it may overwrite its input."""
    activations: dict[str, Callable[[], nn.Module | None]] = {
        "linear": lambda: None,
        "leaky": lambda: nn.LeakyReLU(0.1, inplace=inplace),
        "relu": lambda: nn.ReLU(inplace=inplace),
        "relu6": lambda: nn.ReLU6(inplace=inplace),
        "logistic": nn.Sigmoid,
        "mish": nn.Mish,
        "swish": nn.SiLU,
        "tanh": nn.Tanh,
        "elu": nn.ELU,
        "selu": nn.SELU,
        "gelu": lambda: nn.GELU("tanh"),
        "relie": lambda: nn.LeakyReLU(0.01, inplace=inplace),
        "hardtan": nn.Hardtanh,
    }
    return activations[name]() if name in activations else Formula(name)


class Formula(nn.Module):
    """The activations that PyTorch has no module for."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.function = name, _FORMULAS[name]

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


def _hard_mish(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.where(x > -2, x.square() / 2 + x, 0.0))


def _loggy(x: Tensor) -> Tensor:
    return 2 * x.sigmoid() - 1


def _ramp(x: Tensor) -> Tensor:
    return x.relu() + 0.1 * x


def _plse(x: Tensor) -> Tensor:
    return torch.where(x < -4, 0.01 * (x + 4), torch.where(x > 4, 0.01 * (x - 4) + 1, 0.125 * x + 0.5))


def _lhtan(x: Tensor) -> Tensor:
    return torch.where(x < 0, 0.001 * x, torch.where(x > 1, 0.001 * (x - 1) + 1, x))


def _stair(x: Tensor) -> Tensor:
    n = x.floor()
    return torch.where(n % 2 == 0, 0.0, x - n) + (x / 2).floor()


def _normalize(x: Tensor) -> Tensor:
    positive = x.relu()
    return positive / (positive.sum(1, keepdim=True) + _EPS)


def _normalize_softmax(x: Tensor) -> Tensor:
    e = x.exp()
    return e / (e.sum(1, keepdim=True) + _EPS)


def _normalize_softmax_maxval(x: Tensor) -> Tensor:
    return _normalize_softmax(x - x.amax(1, keepdim=True))


_FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "hard_mish": _hard_mish,
    "loggy": _loggy,
    "ramp": _ramp,
    "plse": _plse,
    "lhtan": _lhtan,
    "stair": _stair,
    "normalize_channels": _normalize,
    "normalize_channels_softmax": _normalize_softmax,
    "normalize_channels_softmax_maxval": _normalize_softmax_maxval,
}
