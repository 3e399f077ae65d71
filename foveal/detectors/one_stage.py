"""The one-stage assembly: backbone, neck, head, priors and one task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..parts.necks import Levels, Pyramid
from ..parts.priors import PriorSet
from ..parts.ssd import ExtraMaps
from ..task import BoxTask
from ..types import Boxes, Images, Priors, Targets
from .base import Detector, Outputs, Spec


class OneStage(Detector):
    """RetinaNet, SSD, YOLO, FCOS; with one class and a plain head, the RPN alone."""

    def __init__(
        self,
        spec: Spec,
        classes: Sequence[str],
        backbone: nn.Module,
        neck: Levels | Pyramid | ExtraMaps,
        head: nn.Module,
        priors: PriorSet,
        task: BoxTask,
        *,
        merges_classes: bool = False,
    ) -> None:
        super().__init__(spec, ("object",) if merges_classes else classes)
        self.backbone, self.neck, self.head = backbone, neck, head
        self.strides = neck.strides
        self.priors, self.task = priors, task
        self.merges_classes = self.has_proposals = merges_classes

    def outputs(self, images: Images) -> Outputs:
        features = self.neck(self.backbone(self._pixels(images)))
        return Outputs(features, [self.head(features)], self.priors(images, features, self.strides))

    def losses(
        self, outputs: Outputs, images: Images, targets: Targets, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        losses = self.task.losses(outputs.layers[-1], outputs.priors, targets, rng)
        for i, layer in enumerate(outputs.layers[:-1]):
            losses |= {f"{k}.{i}": v for k, v in self.task.losses(layer, outputs.priors, targets, rng).items()}
        return losses

    def detections(self, outputs: Outputs, images: Images) -> Boxes:
        return self.task.detect(outputs.layers[-1], everywhere(outputs.priors), images)

    def proposals(self, outputs: Outputs, images: Images) -> Boxes:
        return self.detections(outputs, images) if self.has_proposals else super().proposals(outputs, images)


def everywhere(priors: Priors) -> Priors:
    """Priors without their training filter: crossing the border matters to learning, not to detection."""
    return Priors(priors.boxes, priors.counts)
