"""The attention maps of DETR's queries, as tensors and as images."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..assembly.detector import Detector
from ..assembly.task import Outputs
from ..detectors.detr import DETR
from ..errors import UsageError
from ..inference.draw import draw_boxes
from ..inspection.attention import recorded_attention
from ..parts.coders import ImageRelative
from ..types import Images

_DARK = 0.3  # share of the brightness where the attention is zero


@torch.no_grad()
def attention_maps(detector: Detector, images: Images, layer: int = -1) -> tuple[Tensor, Outputs]:
    """The attention maps of a DETR's queries, (B, Q, h, w) float32 over the cells of its feature map, and its outputs.

    They are the cross-attention weights of one decoder layer, averaged over its heads: not negative, 0 outside the
    image, with a sum of 1. Query q is row q of ``outputs.layers[layer]``; cell (y, x) covers the pixels around
    ``((x + 1/2) W / w, (y + 1/2) H / h)`` of the canvas. Raises ``UsageError`` for a detector without queries.
    """
    with recorded_attention(detector, layer) as maps:
        outputs = detector.outputs(detector.normalize(images))
    if not maps:
        raise UsageError(f"{type(detector.spec).__name__} has no queries", fix="Use a DETR")
    return maps[0], outputs


def attention_images(
    detector: Detector, image: NDArray[np.uint8], *, layer: int = -1, score: float = 0.5
) -> list[Image.Image]:
    """An image for each query of at least ``score``, by descending score: bright where it attends, with its box.

    ``image`` (H, W, 3) RGB; ``layer`` of the decoder, whose boxes and scores are shown. The location with the largest
    weight is as bright as in the image. Raises ``UsageError`` for a detector without queries.
    """
    images = detector.prepare([image])
    with torch.inference_mode():
        maps, outputs = attention_maps(detector, images, layer)
        predictions, canvas = outputs.layers[layer], images.pixels.shape[-2:]
        loss = cast(DETR, detector.spec).task.cls_loss
        scores, labels = loss.scores(predictions.logits)[0].cpu().max(-1)
        height, width = images.sizes[0].tolist()
        sure = scores.argsort(descending=True, stable=True)[: int((scores >= score).sum())]
        if not len(sure):
            return []
        weights = F.interpolate(maps.float().cpu()[:1, sure], canvas, mode="bilinear")[..., :height, :width]
        light = F.interpolate(weights, image.shape[:2], mode="bilinear")[0]
    original = torch.tensor([[0.0, 0.0, image.shape[1], image.shape[0]]])
    boxes = ImageRelative().decode(predictions.deltas[0].float().cpu()[sure], original.expand(len(sure), -1)).tolist()
    return [
        draw_boxes(_lit(image, one), [box], [int(labels[q])], detector.classes, scores=[float(scores[q])])
        for q, one, box in zip(sure, light, boxes, strict=True)
    ]


def _lit(image: NDArray[np.uint8], light: Tensor) -> NDArray[np.uint8]:
    share = _DARK + (1 - _DARK) * (light / light.max()).numpy()[..., None]
    return np.asarray((image * share).astype(np.uint8))
