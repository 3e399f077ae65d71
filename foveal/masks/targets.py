"""Targets of a mask head: RoIAlign of an object's mask inside a box, computed from the runs of the mask.

A sample between two rows is their bilinear mean, so the rows ``top`` to ``bottom`` of one column contribute the part of
the samples' unit intervals inside them, and the target of a mask is a sum over its runs of (fraction of the bin's rows)
x (weight of the column). The bitmap, 100 times larger, is never computed.

Letters: B images, G objects, M runs of an object, K boxes, S side of the target.
"""

from __future__ import annotations

import torch
from torch import Tensor

VALUES = 1 << 25  # of one intermediate tensor, so that memory does not grow with the number of runs
FAR = 1e6  # pixels; what lies farther outside is at this distance
CACHED = 1 << 18  # the same on a CPU, where they fit into the cache


@torch.no_grad()
def mask_targets(runs: Tensor, gt: Tensor, boxes: Tensor, sizes: Tensor, canvas: tuple[int, int], side: int) -> Tensor:
    """``runs`` (B, G, M, 3), ``gt`` (B, K) the object of each box, ``boxes`` (B, K, 4), images of ``sizes`` (B, 2)
    on a ``canvas`` = height, width -> (B, K, S, S) float32 in 0..1.

    Equals ``torchvision.ops.roi_align(mask, box, S, sampling_ratio=-1)`` on the bitmap of each image, which is the
    rule of torchvision's ``project_masks_on_boxes``, for boxes inside the image. Samples more than a pixel outside the
    image, where RoIAlign is 0, repeat the edge: the part of an object that the image cuts off is not background.
    """
    b, k = gt.shape
    if not k:
        return boxes.new_zeros(b, 0, side, side, dtype=torch.float32)
    image = torch.arange(b, device=gt.device)[:, None].expand(b, k).reshape(-1)
    objects, corners, limit = (
        gt.reshape(-1),
        boxes.detach().float().reshape(-1, 4).clamp(-FAR, FAR),
        sizes.to(torch.float32)[image],
    )
    values = CACHED if runs.device.type == "cpu" else VALUES
    step = max(1, values // (side * max(runs.shape[2], *(n + 1 for n in canvas))))
    parts = []
    for start in range(0, b * k, step):
        rows = slice(start, start + step)
        x, top, bottom = runs[image[rows], objects[rows]].long().unbind(-1)  # (r, M) each
        x1, y1, x2, y2 = corners[rows].unbind(-1)
        down = _covered(y1, y2 - y1, limit[rows, 0], canvas[0], side)  # (r, S, H + 1)
        across = _covered(x1, x2 - x1, limit[rows, 1], canvas[1], side).diff(dim=2)  # (r, S, W): a column's weight
        height = _pick(down, bottom) - _pick(down, top)  # (r, S, M)
        parts.append(height @ _pick(across, x).transpose(1, 2))
    return torch.cat(parts).view(b, k, side, side)


def _pick(table: Tensor, index: Tensor) -> Tensor:
    """(r, S, N), (r, M) -> (r, S, M)."""
    return table.gather(2, index[:, None].expand(-1, table.shape[1], -1))


def _covered(start: Tensor, length: Tensor, cells: Tensor, canvas: int, side: int) -> Tensor:
    """(r, S, canvas + 1): the fraction of each bin before row t = 0, 1, ..., canvas; from 0 to 1.

    ``start``, ``length``, ``cells`` (r,): one axis of box and image. A bin's n samples are at a, a + d, ...;
    each contributes min(max(t - its location, 0), 1). The sum over the samples is in closed form, so that no order of
    summation matters. A sample beyond the edge row of the image contributes to that row.
    """
    size = length.clamp(min=1) / side
    samples = size.ceil()
    d, last = (size / samples)[:, None, None], samples[:, None, None] - 1
    first = start[:, None] + torch.arange(side, device=start.device) * size[:, None]
    t = torch.arange(canvas + 1, device=start.device, dtype=torch.float32)
    u = torch.minimum(t - (first[:, :, None] + 0.5 * d), last * d + 1)  # beyond this value all of them contribute fully
    total = _ramps(u, d, last).sub_(_ramps(u - 1, d, last)).div_(last + 1)
    return total.masked_fill_(t >= cells[:, None, None], 1.0).masked_fill_(t <= 0, 0.0)


def _ramps(u: Tensor, d: Tensor, last: Tensor) -> Tensor:
    """The sum of max(0, u - k d) over k = 0, ..., ``last``: with m + 1 of them above zero, (m + 1) (u - m d / 2)."""
    u = u.clamp(min=0)
    m = torch.minimum((u / d).floor_(), last)
    return torch.addcmul(u, m, d, value=-0.5).mul_(m.add_(1))
