"""Truncated SVD of a region head's fully connected layers (Fast R-CNN, sections 3.1 and 4.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..parts.heads.roi import RoIMLP, VGGTail

if TYPE_CHECKING:
    from ..assembly.detector import Spec

_PREFIX = "roi_head.trunk.fc"


def truncated(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(out, in) -> outer (out, rank) and inner (rank, in), whose product is the nearest matrix of that rank.

    The largest singular value of the difference is the first one left out. Computed in float64, from the smaller of
    W W^T and W^T W: its eigenvectors are the singular vectors of that side, and W seen in them is the other factor. A
    whole decomposition of VGG-16's fc6 would take minutes.
    """
    matrix = weight.double()
    wide = matrix.shape[0] <= matrix.shape[1]
    _, vectors = torch.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)  # by rising eigenvalue
    best = vectors[:, -rank:].flip(1)
    outer, inner = (best, best.T @ matrix) if wide else (matrix @ best, best.T)
    return outer.to(weight.dtype).contiguous(), inner.to(weight.dtype).contiguous()


def compress(spec: Spec, state: Mapping[str, Tensor], ranks: Sequence[int]) -> tuple[Spec, dict[str, Tensor]]:
    """Spec and state of the same detector with each fully connected layer of its head as two, of these ranks.

    A layer of u x v costs u v multiplications a proposal, as two t (u + v). Raises :class:`UsageError` for a detector
    without such layers, one that is compressed already, and ranks that do not fit.
    """
    known: Any = spec
    head = getattr(known, "roi_head", None)
    if not isinstance(head, RoIMLP | VGGTail):
        raise UsageError(
            f"{type(spec).__name__} has no fully connected layers to compress",
            where="--svd",
            fix="Use a two-stage detector with a RoIMLP or VGGTail head",
        )
    if head.ranks:
        raise UsageError(f"the head is compressed already, to {head.ranks}", where="--svd")
    names = sorted(key.removesuffix(".weight") for key in state if key.startswith(_PREFIX) and key.endswith(".weight"))
    sides = [min(state[f"{name}.weight"].shape) for name in names]
    if len(ranks) != len(names) or any(not 1 <= r <= side for r, side in zip(ranks, sides, strict=True)):
        most = " and ".join(f"1 to {side}" for side in sides)
        raise UsageError(f"ranks {tuple(ranks)}: the head's {len(names)} layers take {most}", where="--svd")
    smaller = dict(state)
    for name, rank in zip(names, ranks, strict=True):
        outer, inner = truncated(smaller.pop(f"{name}.weight"), rank)
        bias = smaller.pop(f"{name}.bias")
        smaller |= {f"{name}.inner.weight": inner, f"{name}.outer.weight": outer, f"{name}.outer.bias": bias}
    return dataclasses.replace(known, roi_head=dataclasses.replace(head, ranks=tuple(ranks))), smaller
