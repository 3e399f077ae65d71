"""Truncated SVD of the fully connected layers of a RoI head (Fast R-CNN, sections 3.1 and 4.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UsageError

if TYPE_CHECKING:
    from ..assembly.detector import Spec

_PREFIX = "roi_head.trunk.fc"


def truncated(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(out, in) -> outer (out, rank) and inner (rank, in), whose product is the nearest matrix of that rank.

    The largest singular value of the difference is the first one omitted. Computed in float64, from the smaller of
    W W^T and W^T W: its eigenvectors are the singular vectors of that side, and W projected on them is the other
    factor. A full decomposition of VGG-16's fc6 would take minutes.
    """
    matrix = weight.double()
    wide = matrix.shape[0] <= matrix.shape[1]
    _, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)  # by ascending eigenvalue
    best = vectors[:, -rank:].flip(1)
    outer, inner = (best, best.T @ matrix) if wide else (matrix @ best, best.T)
    return outer.to(weight.dtype).contiguous(), inner.to(weight.dtype).contiguous()


def compress(spec: Spec, state: Mapping[str, Tensor], ranks: Sequence[int]) -> tuple[Spec, dict[str, Tensor]]:
    """Spec and state of the detector with each fully connected layer of its head factored into two, of these ranks.

    A layer of u x v costs u v multiplications per proposal, two of rank t cost t (u + v). Raises :class:`UsageError`
    for a detector without such layers, one that is compressed already, and ranks out of range.
    """
    head = spec.roi_head
    if head is None or head.ranks is None:
        raise UsageError(
            f"{type(spec).__name__} has no fully connected layers to compress",
            where="--svd",
            fix="Use it for two-stage detectors with a RoIMLP or VGGTail head",
        )
    if head.ranks:
        raise UsageError(f"the head is compressed already, to {head.ranks}", where="--svd")
    names = sorted(key.removesuffix(".weight") for key in state if key.startswith(_PREFIX) and key.endswith(".weight"))
    sides = [min(state[f"{name}.weight"].shape) for name in names]
    if len(ranks) != len(names) or any(not 1 <= r <= side for r, side in zip(ranks, sides, strict=True)):
        ranges = " and ".join(f"1 to {side}" for side in sides)
        raise UsageError(f"ranks {tuple(ranks)}: the head's {len(names)} layers take {ranges}", where="--svd")
    smaller = dict(state)
    for name, rank in zip(names, ranks, strict=True):
        outer, inner = truncated(smaller.pop(f"{name}.weight"), rank)
        bias = smaller.pop(f"{name}.bias")
        smaller |= {f"{name}.inner.weight": inner, f"{name}.outer.weight": outer, f"{name}.outer.bias": bias}
    instance: Any = spec  # a dataclass with this field
    return dataclasses.replace(instance, roi_head=head.with_ranks(ranks)), smaller
