"""Between a batch and the network: the format of its pixels, and errors of its layers in the words of a user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..types import Images


def network_pixels(module: nn.Module, images: Images) -> Tensor:
    """(B, 3, H, W) for the backbone of ``module``, in the number format of its weights.

    The memory format is channels-last; in training it is that of the weights.
    """
    weight = next(p for p in module.parameters() if p.dim() == 4)
    plain = torch.is_grad_enabled() and not weight.is_contiguous(memory_format=torch.channels_last)
    layout = torch.contiguous_format if plain else torch.channels_last
    return images.pixels.to(dtype=weight.dtype, memory_format=layout)


@contextmanager
def explained_norms() -> Iterator[None]:
    """Raises :class:`UsageError` where a norm has one value alone: a 1 x 1 map of a batch of one image."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        raise UsageError(
            "a norm has a single value per channel: the batch is one image with a feature map of 1 x 1",
            fix="Use larger images or, in training, batches of two or more",
        ) from error
