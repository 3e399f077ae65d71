"""The losses of the ``[yolo]`` layers of AlexeyAB's Darknet: its deltas, written out, and which parts a cfg becomes."""

from __future__ import annotations

import math

import pytest
import torch

from foveal.config.parse import parse_spec
from foveal.config.show import show
from foveal.detectors.darknet import DarknetDetector
from foveal.errors import FovealError
from foveal.parts.coders import GridCoder
from foveal.parts.distance_nms import DistanceNMS
from foveal.parts.losses.classification import BinaryCrossEntropy, SquaredError
from foveal.parts.losses.darknet_iou import DarknetIoU
from foveal.parts.losses.gaussian import GaussianObjectness
from foveal.parts.losses.objectness import Objectness
from foveal.parts.losses.yolo import YOLOBoxLoss
from foveal.parts.matching.cells import ShapeMatcher
from foveal.parts.postprocess import NMS
from foveal.parts.priors.cells import Cells
from foveal.parts.resizing import Letterbox, Stretch
from foveal.types import Targets
from tests.detectors.test_yolo import (
    CLASSES,
    SHAPES_V3,
    SIDE,
    gradient,
    iou,
    objects,
    priors_of,
    random_outputs,
    sigmoid,
    truths,
)
from tests.parts.losses.test_darknet_iou import darknet

BLOCK = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\nstride=2\npad=1\nactivation=leaky\n"
ANCHORS = ", ".join(f"{w:g},{h:g}" for level in SHAPES_V3 for w, h in level)


def cfg(settings: str, *, activation: str = "linear", head: str = "yolo", net: str = "", values: int = 5) -> str:
    """A network of two detection layers, of strides 16 and 32, the coarser one first."""
    last = f"[convolutional]\nfilters={2 * (values + CLASSES)}\nsize=1\nactivation={activation}\n"
    layer = f"[{head}]\nmask={{}}\nanchors={ANCHORS}\nclasses={CLASSES}\nnum=4\nignore_thresh=.7\n{settings}"
    text = f"[net]\nwidth={SIDE}\nheight={SIDE}\n{net}" + BLOCK * 5 + last + layer.format("2,3")
    return text + "[route]\nlayers=3\n" + last + layer.format("0,1")


SETTINGS = (
    "iou_loss=ciou\niou_normalizer=.07\nmax_delta=2\niou_thresh=.213\nscale_x_y={scale}\nobj_normalizer={obj}\n"
    "truth_thresh=1\ncls_normalizer=.5\n"
)


def yolo_layers(
    raw: list[list[list[float]]], targets: Targets, kind: str, *, new: bool, scale: float, obj: tuple[float, float]
) -> list[list[list[float]]]:
    """Deltas for the outputs of the convolutions [image][prior], by ``forward_yolo_layer`` and ``delta_yolo_box``.

    With ``new`` (new_coords) those of the layer are multiplied by the slope of the convolution's logistic function.
    """
    shapes = [shape for level in SHAPES_V3 for shape in level]
    grids = [(4, 0), (2, 2)]  # cells a side and first shape of each level
    deltas = [[[0.0] * len(row) for row in image] for image in raw]

    def box_of(row: list[float], col: int, line: int, cells: int, n: int) -> tuple[float, ...]:
        x, y = (scale * sigmoid(v) - (scale - 1) / 2 for v in row[:2])
        grown = [4 * sigmoid(v) ** 2 if new else math.exp(v) for v in row[2:4]]
        return (col + x) / cells, (line + y) / cells, *(g * s / SIDE for g, s in zip(grown, shapes[n], strict=True))

    for b, image in enumerate(raw):
        found, start = truths(targets, b), 0
        for level, (cells, first) in enumerate(grids):
            for place in range(cells * cells * 2):
                col, line, n = place // 2 % cells, place // 2 // cells, first + place % 2
                row, delta = image[start + place], deltas[b][start + place]
                box = box_of(row, col, line, cells, n)
                best = max([iou(box, truth) for truth, _ in found], default=0)
                delta[4] = 0 if best > 0.7 else obj[level] * (0 - sigmoid(row[4]))
                for truth, label in found:
                    if (int(truth[0] * cells), int(truth[1] * cells)) != (col, line):
                        continue
                    fits = [iou((0, 0, *truth[2:]), (0, 0, w / SIDE, h / SIDE)) for w, h in shapes]
                    if fits[n] < max(fits) and fits[n] <= 0.213:
                        continue
                    slopes = darknet(box, truth, kind)
                    if not new:
                        slopes = [
                            s * f for s, f in zip(slopes, (1, 1, math.exp(row[2]), math.exp(row[3])), strict=True)
                        ]
                    delta[:4] = [max(-2, min(2, 0.07 * s)) for s in slopes]
                    delta[4] = obj[level] * (1 - sigmoid(row[4]))
                    delta[5:] = [(k == label) - sigmoid(row[5 + k]) for k in range(CLASSES)]
                if new:
                    delta[:] = [d * sigmoid(v) * (1 - sigmoid(v)) for d, v in zip(delta, row, strict=True)]
            start += cells * cells * 2
    return deltas


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("kind", ["giou", "ciou"])
def test_yolo_layers_have_darknets_gradients(kind: str, new: bool, seed: int) -> None:
    scale = 2.0 if new else 1.1
    settings = SETTINGS.replace("ciou", kind).format(scale=scale, obj=1)
    text = cfg(settings + ("new_coords=1\n" if new else ""), activation="logistic" if new else "linear")
    text = text[::-1].replace("1=rezilamron_jbo", "4=rezilamron_jbo", 1)[::-1]  # of the finer layer, the last
    spec = DarknetDetector.from_cfg(text)
    priors, raw = priors_of(spec.cells, 4, 2), random_outputs(40, seed)
    raw[..., 2:4] *= 0.3  # boxes near the anchors, which overlap their objects
    raw[..., 5:] += 1  # Darknet ignores no box without a class score above .25
    ours = gradient(spec.task, priors, raw, objects())
    theirs = torch.tensor(yolo_layers(raw.tolist(), objects(), kind, new=new, scale=scale, obj=(4, 1)))
    near = torch.tensor([overlapping(spec, raw[b : b + 1], b) for b in range(2)])
    torch.testing.assert_close((ours * 2)[near], -theirs[near], atol=1e-4, rtol=1e-3)
    assert near.float().mean() > 0.9


def overlapping(spec: DarknetDetector, raw: torch.Tensor, image: int) -> list[bool]:
    """Whether a prior has no object, or a box that overlaps it: Darknet's slopes of boxes apart are not reproduced."""
    priors = priors_of(spec.cells, 4, 2)
    match = spec.task.matcher(priors, objects())
    boxes = spec.task.coder.decode(raw[..., :4], priors.places(1))[0]
    truth = objects().boxes[image][match.gt[image]]
    shared = torch.minimum(boxes[:, 2:], truth[:, 2:]) - torch.maximum(boxes[:, :2], truth[:, :2])
    return (~match.positive[image] | (shared > 0).all(-1)).tolist()


# ------------------------------------------------------------------------------------------------ cfg -> parts
def test_parts_of_a_version_4_cfg() -> None:
    spec = DarknetDetector.from_cfg(cfg(SETTINGS.format(scale="1.05", obj="1.0") + "nms_kind=greedynms\nbeta_nms=.5\n"))
    task = spec.task
    assert spec.cells == Cells(SHAPES_V3, scale_xy=(1.05, 1.05))
    assert task.matcher == ShapeMatcher(also=0.213)
    assert task.box_loss == DarknetIoU("ciou", largest=2.0, weight=0.07)
    assert isinstance(task.cls_loss, BinaryCrossEntropy) and task.coder == GridCoder()
    assert task.quality == Objectness(ignore=0.7)
    assert task.suppress == DistanceNMS(iou=0.45, exponent=0.6, top=100)
    assert isinstance(spec.input, Letterbox)
    assert parse_spec(show(spec)) == spec


def test_parts_of_a_scaled_version_4_cfg() -> None:
    settings = SETTINGS.format(scale="2.0", obj="0.4")
    text = cfg(settings + "new_coords=1\nobjectness_smooth=1\nnms_kind=diounms\nbeta_nms=.7\n", activation="logistic")
    task = DarknetDetector.from_cfg(text).task
    assert task.coder == GridCoder(sides="logistic") and task.cls_loss == SquaredError(logistic=True)
    assert task.quality == Objectness("squared", target="iou", ignore=0.7, above="iou", levels=(0.4, 0.4))
    assert task.suppress == DistanceNMS(iou=0.45, exponent=0.7, top=100)


def test_parts_of_other_settings() -> None:
    plain = DarknetDetector.from_cfg(cfg("")).task
    assert plain.box_loss == YOLOBoxLoss(center="logistic") and plain.matcher == ShapeMatcher()
    assert isinstance(plain.suppress, NMS)
    assert DarknetDetector.from_cfg(cfg("iou_loss=mse\niou_normalizer=.5\n")).task.box_loss.weight == 0.5
    assert DarknetDetector.from_cfg(cfg("iou_loss=giou\n")).task.box_loss == DarknetIoU("giou", weight=0.75)
    assert isinstance(DarknetDetector.from_cfg(cfg("", net="letter_box=0\n")).input, Stretch)
    assert isinstance(DarknetDetector.from_cfg(cfg("", net="letter_box=1\n")).input, Letterbox)
    gaussian = DarknetDetector.from_cfg(cfg("uc_normalizer=.5\n", head="Gaussian_yolo", values=9)).task
    assert gaussian.quality == GaussianObjectness(Objectness(ignore=0.7), weight=0.5)


def test_frozen_layers() -> None:
    text = cfg("")
    third = text.index(BLOCK, len(text) - len(text[text.index(BLOCK) :]) + 2 * len(BLOCK))
    spec = DarknetDetector.from_cfg(text[:third] + BLOCK + "stopbackward=1\n" + text[third + len(BLOCK) :])
    assert spec.frozen == 3
    frozen = {name.split(".")[2] for name, p in spec.build(["a"]).named_parameters() if not p.requires_grad}
    assert frozen == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("iou_loss=siou\n", r"iou_loss is 'siou'\. Use one of mse, iou, giou, diou, ciou"),
        ("nms_kind=soft\n", r"nms_kind is 'soft'\. Use default, greedynms or diounms"),
        ("iou_normalizer=-1\n", "iou_normalizer is -1, expected 0 or more"),
        ("new_coords=1\n", r"new_coords=1 needs a convolution with activation=logistic before it, line 39 is none"),
        ("max_delta=\n", r"max_delta has no value\. Write max_delta= and a number, or remove the line"),
    ],
)
def test_wrong_settings_name_the_line(settings: str, words: str) -> None:
    with pytest.raises(FovealError, match=words):
        DarknetDetector.from_cfg(cfg(settings))


def test_logistic_values_belong_to_the_head_alone() -> None:
    text = cfg("new_coords=1\n", activation="logistic")
    with pytest.raises(
        FovealError, match=r"\[route\]: reads layer 8 of line \d+, which \[yolo\] with new_coords=1 reads"
    ):
        DarknetDetector.from_cfg(text + "[route]\nlayers=8,8\n")
    with pytest.raises(FovealError, match=r"new_coords differs from that of the \[yolo\] before"):
        DarknetDetector.from_cfg(text.replace("new_coords=1", "new_coords=0", 1))


# -------------------------------------------------------------------------------------------------- whole detectors
@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("kind", ["v4", "new_coords", "gaussian"])
def test_each_kind_trains_and_detects(kind: str, classes: int) -> None:
    settings = SETTINGS.replace(".07", ".3").format(scale="1.1" if kind == "v4" else "2.0", obj="1")
    if kind == "new_coords":
        text = cfg(settings + "new_coords=1\nobjectness_smooth=1\nnms_kind=diounms\n", activation="logistic")
    elif kind == "gaussian":
        text = cfg(settings, head="Gaussian_yolo", values=9)
    else:
        text = cfg(settings)
    torch.manual_seed(1)  # from some seeds CIoU grows a box over everything, here as in Darknet
    detector = DarknetDetector.from_cfg(text).build([f"c{i}" for i in range(classes)])
    images = [torch.rand(3, 64, 64)] * 2
    target = {"boxes": torch.tensor([[8.0, 10, 44, 50]]), "labels": torch.tensor([classes - 1])}
    optimizer = torch.optim.Adam(detector.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        sum(detector(images, [target] * 2).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
    best = detector.eval()(images)[0]
    assert int(best.labels[0]) == classes - 1 and best.scores[0] > 0.3
    x1, y1, x2, y2 = best.boxes[0].tolist()
    assert iou(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), (26, 30, 36, 40)) > 0.6
