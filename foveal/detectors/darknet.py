"""A Darknet detector, defined by its cfg: YOLOv1 to v4, Scaled-YOLOv4, YOLOv7, their tiny forms, any of that kind.

The cfg's text is the network. The settings of its last layers (anchors, masks, thresholds, losses) become our parts, so
they can be replaced as in any detector: ``[yolo]`` YOLOv3's, ``[region]`` YOLOv2's, ``[detection]`` YOLOv1's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from ..assembly.detector import Detector, Spec
from ..assembly.one_stage import OneStage
from ..assembly.task import BoxTask
from ..data.augment.transforms import HorizontalFlip
from ..errors import FovealError, UsageError
from ..parts.coders import GridCoder
from ..parts.darknet.cfg_graph import CfgLayer, Net, cfg_text, producer, read_net, with_outputs
from ..parts.darknet.heads import Detection, GaussianYolo, Head, Region, Yolo
from ..parts.darknet.module import DarknetNetwork
from ..parts.darknet.notes import cfg_notes
from ..parts.darknet.weights import read_start
from ..parts.distance_nms import DistanceNMS
from ..parts.heads.dense import DenseHead
from ..parts.heads.yolo import split_cells, split_gaussian, start_biases
from ..parts.heads.yolo_v1 import split_grid
from ..parts.losses.box import BoxLoss
from ..parts.losses.classification import BinaryCrossEntropy, ClassLoss, CrossEntropy, SquaredError, prior_bias
from ..parts.losses.darknet_iou import DarknetIoU
from ..parts.losses.gaussian import GaussianObjectness
from ..parts.losses.normalizers import PerImage
from ..parts.losses.objectness import Objectness
from ..parts.losses.quality import Quality
from ..parts.losses.yolo import YOLOBoxLoss
from ..parts.matching.cells import ShapeMatcher
from ..parts.necks.fpn import Identity, Neck
from ..parts.priors.cells import Cells
from ..parts.resizing import BLACK, UNIT_PIXELS, WHITE, Letterbox, PixelStatistics, Stretch
from ..recipe import AdamW, Cosine, Recipe
from ..types import Predictions
from ..weights.state import load_state
from .yolo import V1_TASK, V2_TASK, V3_TASK

NMS_IOU = 0.45  # Darknet's, whatever the cfg
_START = 0.01  # initial objectness of new last layers; Darknet's 1/2 needs more images
# For a dataset of a few hundred images; Darknet's recipe (SGD, 500,200 batches of 64) is for COCO.
FINE_TUNE = Recipe(
    epochs=12,
    batch=8,
    lr=5e-4,
    solver=AdamW(weight_decay=1e-4),
    schedule=Cosine(),
    warmup_steps=100,
    clip=10.0,
    ema=0.998,
    augment=(HorizontalFlip(),),
)


@dataclass(frozen=True)
class DarknetDetector(Spec):
    """The network of a cfg, with the parts its last layers ask for (see :meth:`from_cfg`)."""

    cfg: str  # a cfg's text, or the path of the file
    cells: Cells  # the anchors of each level, finest first
    task: BoxTask
    input: Letterbox | Stretch = Letterbox()  # the resize rule; by default the cfg's size, and pixels in 0..1
    weights: str | None = None  # a .weights file of this cfg, or of its first layers, read when training starts
    frozen: int = 0  # layers that do not learn, the first ones (the cfg's ``stopbackward=1``)
    eps: float = 1e-5  # of the norms: Darknet's on a GPU; 1e-6 on a CPU and in OpenCV
    fit: Recipe = FINE_TUNE  # the recipe it is trained by

    def __post_init__(self) -> None:
        object.__setattr__(self, "cfg", cfg_text(self.cfg))
        net = read_net(self.cfg)
        object.__setattr__(self, "input", self.input.like(Letterbox(net.width, net.height, BLACK, WHITE)))

    @classmethod
    def from_cfg(cls, cfg: str | Path, *, seen: int = 0) -> DarknetDetector:
        """The spec of a cfg: its text, or the path of the file.

        ``seen``: how many images its weights were trained on, which ends YOLOv2's warm-up of boxes. Raises
        :class:`FovealError` for a cfg that is wrong, or of no detector.
        """
        text = cfg_text(str(cfg))
        net = read_net(text, cfg if text != str(cfg) else None)
        heads = detection_layers(net)
        cells, task, frozen = _cells(heads), _task(heads, seen), _frozen(net)
        if isinstance(heads[0].head, Detection) or net.letter_box is False:  # whose own commands stretch images
            return cls(text, cells, task, input=Stretch(), frozen=frozen)
        return cls(text, cells, task, frozen=frozen)

    @property
    def grid(self) -> Cells:
        return self.cells

    def notes(self, *, training: bool = False) -> list[str]:
        return [f"cfg: {note}" for note in cfg_notes(self.cfg, training=training)]

    @property
    def weights_file(self) -> str | None:
        return self.weights

    @property
    def pixels(self) -> PixelStatistics | None:
        return None if self.weights is None else UNIT_PIXELS

    def build(self, classes: Sequence[str]) -> OneStage:
        """The detector with random weights, its last layers as wide as the number of classes requires."""
        loss, count = self.task.cls_loss, len(classes)
        logits = loss.channels(count)
        height, width = self.input.canvas(())
        net = read_net(with_outputs(self.cfg, logits), size=(height, width))
        heads = detection_layers(net)
        boxes = tuple(cast(Head, layer.head).boxes for layer in heads)
        if self.cells.per_location != boxes:
            raise UsageError(
                f"cells has {_counted(self.cells.per_location)} shapes a cell, the cfg has {_counted(boxes)} boxes",
                fix="Give each level as many shapes as its layer has boxes, finest level first",
            )
        last = [producer(net.layers, layer.sources[0]) for layer in heads]
        raw = [
            k for k, layer in zip(last, heads, strict=True) if isinstance(layer.head, Yolo) and layer.head.new_coords
        ]
        network = DarknetNetwork(net, [layer.sources[0] for layer in heads], eps=self.eps, raw=raw)
        for module in network.layers[: self.frozen]:
            module.requires_grad_(False)
        first = heads[0].head
        if isinstance(first, Detection):
            head: DenseHead = GridOutputs(first.boxes, logits)
            neck: Neck = GridMaps(network, first.side, width)
        else:
            gaussian = isinstance(first, GaussianYolo)
            head = CellOutputs(logits, gaussian=gaussian)
            neck = Identity().build(network.channels, network.strides)
            for k in last:
                _start(network.layers[k], logits, loss.bias(count), 8 if gaussian else 4)
        return OneStage(self, classes, network, neck, head, self.cells, self.task)

    def load_pretrained(self, detector: Detector) -> None:
        """Reads ``weights``, if any: a file of the whole network, or of its first layers (``darknet53.conv.74``).

        For another number of classes than the file's the last layers keep their random weights.
        """
        if self.weights is None:
            return
        net = read_net(self.cfg)
        _, state = read_start(self.weights, self.cfg)
        network = detector.get_submodule("backbone")
        own = network.state_dict()
        last = {f"layers.{producer(net.layers, layer.sources[0])}." for layer in net.heads}
        merged = {
            key: own[key] if key.startswith(tuple(last)) and value.shape != own[key].shape else value
            for key, value in state.items()
        }
        load_state(network, {**own, **merged}, path=self.weights, what="the cfg's network")


# -------------------------------------------------------------------------------------------- cfg -> our parts
def _counted(levels: Sequence[int]) -> str:
    return " and ".join(map(str, levels))


def detection_layers(net: Net) -> list[CfgLayer]:
    """The detection layers, finest map first. Raises :class:`FovealError` where there is none, or a mixture."""
    if not net.heads:
        raise FovealError(
            "the cfg ends in no [yolo], [region] or [detection] layer: it is no detector",
            path=net.path,
            fix='Use a classifier as a backbone: backbone=Darknet("FILE.cfg", weights="FILE.weights")',
        )
    first = net.heads[0]
    for layer in net.heads[1:]:
        if layer.kind != first.kind or not isinstance(layer.head, Yolo):
            raise layer.section.error(
                f"beside [{first.kind}] of line {first.section.line}; only [yolo] may be repeated"
            )
        assert isinstance(first.head, Yolo)
        for name in ("classes", "new_coords"):
            if getattr(layer.head, name) != getattr(first.head, name):
                raise layer.section.error(f"{name} differs from that of the [yolo] before", key=name)
    return sorted(net.heads, key=lambda layer: -layer.shape[1] * layer.shape[2])


def _cells(heads: Sequence[CfgLayer]) -> Cells:
    shapes, scale_xy = [], []
    for layer in heads:
        what = layer.head
        if isinstance(what, Yolo):
            shapes.append(tuple(what.anchors[k] for k in what.mask))
            scale_xy.append(what.scale_xy)
        elif isinstance(what, Region):
            return Cells((what.anchors,), unit="cells")
        elif isinstance(what, Detection):
            return Cells((((1.0, 1.0),) * what.boxes,), unit="cells")  # its boxes have no anchors
    return Cells(tuple(shapes), scale_xy=tuple(scale_xy) if max(scale_xy) > 1 else None)


def _frozen(net: Net) -> int:
    """How many layers end with the last one of ``stopbackward=1``, where Darknet's gradients end."""
    return max((layer.index + 1 for layer in net.layers if layer.section.text("stopbackward", "") == "1"), default=0)


def _task(heads: Sequence[CfgLayer], seen: int) -> BoxTask:
    what = heads[0].head
    if isinstance(what, Yolo):
        return _yolo_task([cast(Yolo, layer.head) for layer in heads])
    assert what is not None
    scales, task = what.scales, V2_TASK if isinstance(what, Region) else V1_TASK
    box_loss = replace(cast(YOLOBoxLoss, task.box_loss), weight=scales.box)
    cls_loss: ClassLoss = SquaredError(weight=scales.classes)
    quality = replace(
        cast(Objectness, task.quality),
        target="iou" if scales.rescore else "one",
        positive=scales.object,
        negative=scales.nothing,
    )
    if isinstance(what, Region):
        loss = CrossEntropy if what.softmax else BinaryCrossEntropy
        cls_loss = loss(background=False, normalizer=PerImage(), weight=scales.classes)
        quality = replace(quality, ignore=what.thresh)
        box_loss = replace(box_loss, warmup_images=max(0, box_loss.warmup_images - seen))
    return replace(task, cls_loss=cls_loss, box_loss=box_loss, quality=quality)


def _yolo_task(levels: Sequence[Yolo]) -> BoxTask:
    """YOLOv3's task with the settings of ``[yolo]`` layers; those of the finest, but for the weight of objectness."""
    what, training, task = levels[0], levels[0].training, V3_TASK
    weights = tuple(level.training.obj_normalizer for level in levels)
    quality: Quality = Objectness(
        "squared" if what.new_coords else "cross-entropy",
        target="iou" if training.smooth else "one",
        ignore=what.ignore_thresh,
        above="iou" if training.smooth else "ignored",
        levels=None if set(weights) == {1.0} else weights,
    )
    if isinstance(what, GaussianYolo):
        quality = GaussianObjectness(cast(Objectness, quality), weight=training.uc_normalizer)
    box_loss: BoxLoss = YOLOBoxLoss(center="squared" if what.new_coords else "logistic", weight=training.iou_normalizer)
    if training.iou_loss != "mse":
        box_loss = DarknetIoU(training.iou_loss, largest=training.max_delta, weight=training.iou_normalizer)
    if what.new_coords:
        task = replace(task, cls_loss=SquaredError(logistic=True), coder=GridCoder(sides="logistic"))
    if training.nms_exponent is not None:
        suppress = DistanceNMS(iou=NMS_IOU, exponent=training.nms_exponent, top=task.suppress.top)
        task = replace(task, suppress=suppress)
    return replace(task, matcher=ShapeMatcher(also=training.iou_thresh), box_loss=box_loss, quality=quality)


def _start(layer: nn.Module, logits: int, bias: float | None, values: int) -> None:
    """Initializes the biases of the last convolution: objects are rare. ``values``: outputs of a box."""
    conv = layer[0] if isinstance(layer, nn.Sequential) and len(layer) == 1 else None
    if isinstance(conv, nn.Conv2d) and conv.bias is not None:
        start_biases(conv.bias, logits, prior_bias(_START), bias, values)


# ------------------------------------------------------------------------------------------------ small modules
class GridMaps(Neck):
    """The outputs of a connected layer, (B, n, 1, 1) -> (B, n / side^2, side, side) in the same order of memory."""

    def __init__(self, network: DarknetNetwork, side: int, width: int) -> None:
        super().__init__()
        self.side = side
        self.channels, self.strides = (network.channels[0] // side**2,), (width // side,)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [features[0].reshape(len(features[0]), -1, self.side, self.side)]


class CellOutputs(DenseHead):
    """Raw maps of ``[region]``, ``[yolo]`` and ``[Gaussian_yolo]`` -> ``Predictions``."""

    def __init__(self, logits: int, *, gaussian: bool = False) -> None:
        super().__init__()
        self.logits, self.split = logits, split_gaussian if gaussian else split_cells

    def forward(self, maps: list[Tensor]) -> Predictions:
        return self.split(maps, self.logits)


class GridOutputs(DenseHead):
    """The raw map of ``[detection]`` -> ``Predictions``."""

    def __init__(self, boxes: int, logits: int) -> None:
        super().__init__()
        self.boxes, self.logits = boxes, logits

    def forward(self, maps: list[Tensor]) -> Predictions:
        cells = maps[0].shape[2] * maps[0].shape[3]
        return split_grid(maps[0].flatten(1), cells, self.boxes, self.logits)
