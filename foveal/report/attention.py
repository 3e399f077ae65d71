"""Drawings of the cross-attention of a DETR's object queries."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..assembly.detector import Detector
from ..detectors.detr import DETR, attention_maps
from ..inference.draw import draw_boxes
from ..parts.coders import ImageRelative

_DARK = 0.3  # of the brightness, where there is no attention


def attention_images(
    detector: Detector, image: NDArray[np.uint8], *, layer: int = -1, score: float = 0.5
) -> list[Image.Image]:
    """A drawing for each query with a score of at least ``score``, best first: bright where it attends, and its box.

    ``image`` (H, W, 3) RGB; ``layer`` of the decoder, whose own boxes and scores are shown. The location with
    the highest attention is as bright as in the image. Raises ``UsageError`` for a detector without queries.
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
