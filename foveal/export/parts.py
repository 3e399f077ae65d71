"""The forms of a detector's parts in a graph: the same results by operations of fixed shape.

A part of a detector may ask for numbers in the middle of a forward pass, or choose its kernel by the processor. A graph
can do neither. ``exportable`` returns a copy of a detector whose parts are these.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..assembly.detector import Detector
from ..assembly.one_stage import OneStage
from ..assembly.proposers import FromRPN
from ..assembly.task import BoxTask
from ..assembly.two_stage import TwoStage
from ..errors import UsageError
from ..parts.layers.fast_layers import FastConv, FastReLU6
from ..parts.pooling.roi_align import Pool, RoIAlign
from ..parts.postprocess import NMS, Candidates, NoNMS, Select, Suppress, finite_scores, gather_boxes
from ..types import Boxes
from .operators import LOW


@dataclass(frozen=True)
class GraphSelect(Select):
    """``Select`` by plain top-k. ``per_level`` None: the ``most`` best of the one level."""

    most: int = 4000

    @torch.no_grad()
    def candidates(
        self, scores: Tensor, counts: Sequence[int], to_scores: Callable[[Tensor], Tensor] | None = None
    ) -> Candidates:
        scores = finite_scores(scores)
        if self.per_class is not None:
            filled = F.pad(scores.transpose(1, 2), (0, self.per_class), value=-torch.inf)
            value, prior = filled.topk(self.per_class, 2)  # (B, C, k)
            prior = prior.clamp(max=scores.shape[1] - 1)
            label = torch.arange(scores.shape[2])[:, None].expand_as(prior)
            value, level = value.flatten(1).float(), torch.zeros_like(label.flatten(1)[0])
            return Candidates(_converted(value, to_scores), prior.flatten(1), label.flatten(1), level)
        best = None
        if self.best_class:
            scores, best = scores.max(-1, keepdim=True)
        classes = scores.shape[2]
        values, indices, levels, start = [], [], [], 0
        for number, count in enumerate(counts):
            flat = scores[:, start : start + count].flatten(1)
            if self.per_level is None:  # filled up to a fixed number
                value, index = F.pad(flat, (0, self.most), value=-torch.inf).topk(self.most, 1)
                index = index.clamp(max=flat.shape[1] - 1)
            else:
                value, index = flat.topk(torch.sym_min(self.per_level, flat.shape[1]), 1)
            values.append(value)
            indices.append(index + start * classes)
            levels.append(torch.full_like(index[0], number))
            start += count
        value, index = _converted(torch.cat(values, 1).float(), to_scores), torch.cat(indices, 1)
        prior = torch.div(index, classes, rounding_mode="floor")
        label = index - prior * classes if best is None else best.squeeze(-1).gather(1, prior)
        return Candidates(value, prior, label, torch.cat(levels))


def _converted(value: Tensor, to_scores: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Logits as scores; -inf marks a pair that must not be selected, and stays."""
    return value if to_scores is None else torch.where(value == -torch.inf, value, to_scores(value))


@dataclass(frozen=True)
class GraphNMS(Suppress):
    """``NMS`` as one operator."""

    iou: float = 0.5
    per: str = "class"
    groups: int = 1

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes:
        group = labels if self.per == "class" else level.expand_as(labels) if self.per == "level" else labels * 0
        ranked = torch.where(valid, scores.float(), LOW)
        keep = torch.ops.foveal.nms_keep(
            torch.where(valid[..., None], boxes.float(), 0.0), ranked, group, self.groups, self.iou, self.top
        )
        return _best(torch.where(keep, ranked, LOW), self.top, boxes, scores, labels)


@dataclass(frozen=True)
class GraphNoNMS(Suppress):
    """``NoNMS`` by plain top-k."""

    @torch.no_grad()
    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor, level: Tensor, valid: Tensor) -> Boxes:
        return _best(torch.where(valid, scores.float(), LOW), self.top, boxes, scores, labels)


def _best(ranked: Tensor, top: int, boxes: Tensor, scores: Tensor, labels: Tensor) -> Boxes:
    value, index = ranked.topk(torch.sym_min(top, ranked.shape[1]), 1)
    return gather_boxes(boxes, scores, labels, index, value > LOW)


@dataclass(frozen=True)
class GraphRoIAlign(RoIAlign):
    """``RoIAlign`` by the operator that every runtime has: all boxes on each level."""

    def __call__(
        self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[float], sizes: Tensor | None = None
    ) -> Tensor:
        first, last = self._levels
        count = last - first + 1 if len(features) > 1 else 1
        boxes = boxes.float()
        scales = [1.0 / s for s in strides[:count]]
        return self._kernel(list(features[:count]), boxes, scales, self.level(boxes) if count > 1 else None)


# --------------------------------------------------------------------------------------------- conversion
def exportable(detector: Detector) -> Detector:
    """A copy of a detector in evaluation mode whose parts are those above, for :func:`torch.export.export`.

    Raises :class:`UsageError` for a detector with a part that has no such form.
    """
    copied = copy.deepcopy(detector).float().eval().requires_grad_(False)
    _plain_layers(copied)
    classes = len(detector.classes)
    if isinstance(copied, OneStage):
        copied.task = _task(copied.task, classes, len(copied.priors.per_location))
    elif isinstance(copied, TwoStage):
        proposer = copied.proposer
        if isinstance(proposer, FromRPN):
            first = _task(proposer.counted(False), 1, len(proposer.anchors.sizes))
            copied.proposer = replace(proposer, task=first)
        copied.roi, copied.pool = _task(copied.roi, classes, 1), _pool(copied.pool)
        if copied.mask_head is not None:
            copied.mask_head.pool = _pool(copied.mask_head.pool)
    else:
        raise UsageError(f"a {type(detector).__name__} has no form in ONNX")
    return copied


def _task(task: BoxTask, classes: int, levels: int) -> BoxTask:
    known = {field.name: getattr(task.select, field.name) for field in fields(Select)}
    return replace(task, select=GraphSelect(**known), suppress=_suppress(task.suppress, classes, levels))


def _suppress(suppress: Suppress, classes: int, levels: int) -> Suppress:
    if type(suppress) is NoNMS:
        return GraphNoNMS(top=suppress.top)
    if type(suppress) is not NMS:
        raise UsageError(f"{type(suppress).__name__} has no form in ONNX", fix="Set its suppress to NMS(...)")
    groups = {"class": classes, "level": levels, "all": 1}[suppress.per]
    return GraphNMS(suppress.iou, suppress.per, groups, top=suppress.top)


def _pool(pool: Pool) -> Pool:
    if type(pool) is not RoIAlign:
        return pool
    return GraphRoIAlign(**{field.name: getattr(pool, field.name) for field in fields(pool)})


def _plain_layers(module: nn.Module) -> None:
    """Replaces the layers that choose their kernel by the processor."""
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, FastConv):
                setattr(parent, name, PlainConv(layer))
            elif isinstance(layer, FastReLU6):
                setattr(parent, name, nn.ReLU6())


class PlainConv(nn.Module):
    """A :class:`FastConv` by torch's convolution."""

    def __init__(self, conv: FastConv) -> None:
        super().__init__()
        weight, bias = conv.scaled()
        self.weight = nn.Parameter(weight.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.same, self.kernel, self.stride = conv.same, conv.kernel_size, conv.stride
        self.dilation, self.groups, self.padding = conv.dilation, conv.groups, conv.padding

    def forward(self, x: Tensor) -> Tensor:
        if not self.same:
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        margins: list[int] = []
        for axis in (1, 0):  # columns first, as F.pad has them
            size, stride = x.shape[2 + axis], self.stride[axis]
            total = (-(-size // stride) - 1) * stride + (self.kernel[axis] - 1) * self.dilation[axis] + 1 - size
            total = cast(int, torch.sym_max(total, 0))
            margins += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, margins), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
