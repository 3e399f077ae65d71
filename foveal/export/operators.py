"""Operators that torch.export sees as one node of known shape, and their translations to ONNX's own operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..parts.postprocess import suppress_on_cpu

LOW = -1e30  # the score of what is no candidate; finite, so that no product of it is NaN
_BELOW_ALL = -1e29


@torch.library.custom_op("foveal::nms_keep", mutates_args=())
def nms_keep(boxes: Tensor, scores: Tensor, group: Tensor, groups: int, iou: float, top: int) -> Tensor:
    """Which candidates greedy NMS keeps, (B, S) bool: boxes (B, S, 4), scores (B, S) and group (B, S) in 0..groups - 1.

    Candidates with a score of :data:`LOW` are none. Of each image at least the best ``top`` are marked.
    """
    index, remains = suppress_on_cpu(boxes, scores, group, scores > _BELOW_ALL, iou, min(top, scores.shape[1]))
    return (
        torch.zeros_like(scores, dtype=torch.bool).scatter_(1, index, remains)
        if remains.all()
        else _marked(index, remains, scores)
    )


def _marked(index: Tensor, remains: Tensor, scores: Tensor) -> Tensor:
    out = torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool)
    return out.scatter_(1, torch.where(remains, index, scores.shape[1]), True)[:, :-1].contiguous()


@nms_keep.register_fake
def _(boxes: Tensor, scores: Tensor, group: Tensor, groups: int, iou: float, top: int) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@cache
def translations() -> dict[Any, Callable[..., Any]]:
    """For ``torch.onnx.export(custom_translation_table=...)``."""
    import onnxscript

    op: Any = onnxscript.opset18  # its annotations are stricter than what it takes

    def keep(boxes: Any, scores: Any, group: Any, groups: int, iou: float, top: int) -> Any:
        # (B, groups, S): each score in the row of its own group, LOW in the others
        row = op.Reshape(op.Constant(value_ints=list(range(groups))), op.Constant(value_ints=[1, groups, 1]))
        own = op.Equal(op.Unsqueeze(group, op.Constant(value_ints=[1])), row)
        of_group = op.Where(own, op.Unsqueeze(scores, op.Constant(value_ints=[1])), op.Constant(value_float=LOW))
        selected = op.NonMaxSuppression(  # (n, 3): image, group, candidate
            boxes,
            of_group,
            op.Constant(value_ints=[top]),
            op.Constant(value_floats=[iou]),
            op.Constant(value_floats=[_BELOW_ALL]),
        )
        where = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
        ones = op.Expand(op.Constant(value_float=1.0), op.Shape(selected, start=0, end=1))
        none = op.Mul(op.Cast(op.Equal(group, group), to=1), op.Constant(value_float=0.0))
        return op.Cast(op.ScatterND(none, where, ones), to=9)

    def roi_pool(feature: Any, rois: Any, scale: float, height: int, width: int) -> Any:
        return op.MaxRoiPool(feature, rois, pooled_shape=[height, width], spatial_scale=scale), op.Constant(value_int=0)

    def signbit(x: Any) -> Any:
        return op.Less(x, op.CastLike(op.Constant(value_float=0.0), x))

    return {
        torch.ops.foveal.nms_keep.default: keep,
        torch.ops.torchvision.roi_pool.default: roi_pool,
        torch.ops.prims.signbit.default: signbit,
    }
