"""The locally connected layer: a convolution with different filters at every location."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UsageError

_FIX = "Use the input size of the network's cfg, without MultiScale"


class LocallyConnected(nn.Module):
    """(B, c, H, W) -> (B, filters, h, w); ``sides`` (h, w) are fixed, as each location has its own filters.

    Its weights are (h w, filters, c k k) and its biases (filters, h, w), in the order of Darknet's files. Initial
    weights are uniform within the root of 2 / (c k k), as there. Raises :class:`UsageError` for a map of other sides.
    """

    def __init__(
        self,
        inputs: int,
        filters: int,
        sides: Sequence[int],
        size: int = 3,
        stride: int = 1,
        padding: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        fan_in, (h, w) = inputs * size**2, sides
        bound = math.sqrt(2 / fan_in)
        self.weight = nn.Parameter(torch.empty(h * w, filters, fan_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(filters, h, w))
        self.size, self.stride, self.padding = size, stride, padding
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        sides = tuple((side + 2 * self.padding - self.size) // self.stride + 1 for side in x.shape[-2:])
        if sides != self.bias.shape[1:]:
            actual, expected = " x ".join(map(str, sides)), " x ".join(map(str, self.bias.shape[1:]))
            raise UsageError(f"a local layer expects {expected} locations, got {actual}", fix=_FIX)
        columns = F.unfold(x, self.size, padding=self.padding, stride=self.stride)  # (B, c k k, h w)
        y: Tensor = torch.einsum("btp,pft->bfp", columns, self.weight).view(-1, *self.bias.shape) + self.bias
        return y if self.activation is None else self.activation(y)
