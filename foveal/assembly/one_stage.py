"""The one-stage assembly: backbone, neck, head, priors and one task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..parts.heads.dense import LayeredHead
from ..parts.necks.fpn import Neck
from ..parts.priors.base import PriorSet
from ..types import Boxes, Images, Priors, Targets
from .detector import Detector, Outputs, Spec
from .task import BoxTask


class OneStage(Detector):
    """RetinaNet, SSD, YOLO, FCOS, DETR; with one class and a plain head, the RPN alone."""

    def __init__(
        self,
        spec: Spec,
        classes: Sequence[str],
        backbone: nn.Module,
        neck: Neck,
        head: nn.Module,
        priors: PriorSet,
        task: BoxTask,
        *,
        class_agnostic: bool = False,
    ) -> None:
        super().__init__(spec, ("object",) if class_agnostic else classes)
        self.backbone, self.neck, self.head = backbone, neck, head
        self.strides = neck.strides
        self.priors, self.task = priors, task
        self.class_agnostic = self.has_proposals = class_agnostic

    @property
    def threshold(self) -> float:
        return self.task.select.score

    def outputs(self, images: Images) -> Outputs:
        features = self.neck(self.backbone(self._pixels(images)))
        head = self.head
        layers = head(features, images) if isinstance(head, LayeredHead) else [head(features)]
        return Outputs(features, layers, self.priors(images, features, self.strides))

    def losses(
        self, outputs: Outputs, images: Images, targets: Targets, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        matches = self.task.matches(outputs.layers, outputs.priors, targets)

        def of(i: int) -> dict[str, Tensor]:
            layer = outputs.layers[i]
            return self.task.losses(layer, outputs.priors, targets, rng, match=matches[i], seen=images.seen)

        losses = of(-1)
        for i in range(len(outputs.layers) - 1):
            losses |= {f"{k}.{i}": v for k, v in of(i).items()}
        return losses

    def detections(self, outputs: Outputs, images: Images) -> Boxes:
        return self.task.detect(outputs.layers[-1], without_validity(outputs.priors), images)

    def proposals(self, outputs: Outputs, images: Images, *, training: bool = False) -> Boxes:
        """Those of an RPN; it has one number of them for training and test."""
        return self.detections(outputs, images) if self.has_proposals else super().proposals(outputs, images)


def without_validity(priors: Priors) -> Priors:
    """Priors without their training filter: crossing the border matters to learning, not to detection."""
    return Priors(priors.boxes, priors.counts, grid=priors.grid)
