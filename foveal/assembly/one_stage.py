"""The one-stage assembly: backbone, neck, head, priors and one task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..parts.heads.dense import DenseHead
from ..parts.necks.fpn import Neck
from ..parts.priors.base import PriorSet
from ..types import Boxes, Images, Targets
from .detector import Detector, Spec, network_pixels
from .task import BoxTask, Outputs, without_validity


class OneStage(Detector):
    """RetinaNet, SSD, YOLO, FCOS and DETR; class-agnostic, the RPN as a detector."""

    def __init__(
        self,
        spec: Spec,
        classes: Sequence[str],
        backbone: nn.Module,
        neck: Neck,
        head: DenseHead,
        priors: PriorSet,
        task: BoxTask,
        *,
        class_agnostic: bool = False,
    ) -> None:
        """``class_agnostic``: all objects are of the one class ``object``, and the detections are proposals."""
        names = ("object",) if class_agnostic else classes
        super().__init__(spec, names, has_proposals=class_agnostic, class_agnostic=class_agnostic)
        self.backbone, self.neck, self.head = backbone, neck, head
        self.strides = neck.strides
        self.priors, self.task = priors, task

    @property
    def threshold(self) -> float:
        return self.task.select.score

    def outputs(self, images: Images) -> Outputs:
        features = self.neck(self.backbone(network_pixels(self, images)))
        layers = self.head.layers(features, images)
        return Outputs(features, layers, self.priors(images, features, self.strides))

    def losses(
        self,
        outputs: Outputs,
        images: Images,
        targets: Targets,
        rng: torch.Generator | None,
        learning: str | None = None,
    ) -> dict[str, Tensor]:
        """Those of the final predictions, then those of earlier decoder layers: ``cls``, ``box``, ``cls.0``, ..."""
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
        """Those of an RPN; as many in training as in inference."""
        return self.detections(outputs, images) if self.has_proposals else super().proposals(outputs, images)
