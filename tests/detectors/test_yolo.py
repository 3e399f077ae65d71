"""YOLO's losses against Darknet's rules, written out object by object; its matchers, coder and layers.

Darknet writes no losses, it writes gradients (``delta = scale * (truth - output)``). So the oracles below do the same,
and the tests compare the gradients of the loss by every raw output, and loss values computed by hand.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foveal import presets
from foveal.assembly.task import BoxTask
from foveal.detectors.yolo import V1_TASK, V2_TASK, V3_TASK
from foveal.errors import UsageError
from foveal.parts.coders import GridCoder
from foveal.parts.heads.yolo import CellHead, split_cells
from foveal.parts.heads.yolo_v1 import GridHead, split_grid
from foveal.parts.layers.darknet import reorg
from foveal.parts.layers.local import LocallyConnected
from foveal.parts.losses.box import GIoU
from foveal.parts.losses.classification import Focal, SquaredError
from foveal.parts.losses.darknet_iou import DarknetIoU
from foveal.parts.losses.objectness import Objectness
from foveal.parts.losses.yolo import YOLOBoxLoss
from foveal.parts.matching.cells import Responsible, ShapeMatcher
from foveal.parts.necks.yolo import Passthrough, Upsampling
from foveal.parts.priors.cells import Cells
from foveal.types import Images, Predictions, Priors, Target, Targets

SIDE = 64  # the canvas of these tests, pixels
CLASSES = 3
SHAPES_V3 = (((10.0, 14.0), (24.0, 18.0)), ((30.0, 44.0), (60.0, 50.0)))  # strides 16 and 32
SHAPES_V2 = (((0.8, 0.6), (1.5, 1.1)),)  # cells of 32 px


def canvas(batch: int = 2) -> Images:
    sides = torch.full((batch, 2), SIDE)
    return Images(torch.zeros(batch, 3, SIDE, SIDE), sides, torch.tensor([[1.0, 1, 0, 0]] * batch), sides)


def priors_of(cells: Cells, *sides: int) -> Priors:
    return cells(canvas(), [torch.zeros(2, 1, s, s) for s in sides], [SIDE // s for s in sides])


def objects() -> Targets:
    """Three objects in the first image (one on the right border, two near each other), none in the second."""
    boxes = torch.tensor([[4.0, 6.0, 16.0, 18.0], [20.0, 22.0, 60.0, 61.0], [40.0, 2.0, 64.0, 20.0]])
    return Targets.pad([Target(boxes, torch.tensor([2, 0, 1])), Target(torch.zeros(0, 4), torch.zeros(0).long())])


def crowded() -> Targets:
    """Objects that share a prior: of two and of the same class in the first image, of three and two in the second."""
    first = torch.tensor([[2.0, 2.0, 12.0, 16.0], [3.0, 1.0, 13.0, 15.0], [2.0, 1.0, 11.0, 15.0], [20.0, 22, 60, 61]])
    second = torch.tensor([[2.0, 2, 12, 16], [3.0, 1, 13, 15], [3.0, 2, 12, 15], [40.0, 2, 64, 20], [39.0, 2, 63, 20]])
    return Targets.pad([Target(first, torch.tensor([1, 0, 1, 2])), Target(second, torch.tensor([2, 0, 1, 2, 0]))])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Of two boxes (cx, cy, w, h)."""
    w = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    h = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    shared = max(w, 0) * max(h, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def truths(targets: Targets, image: int) -> list[tuple[tuple[float, ...], int]]:
    """(cx, cy, w, h) relative to the image, and the class."""
    found = []
    for box, label, valid in zip(targets.boxes[image], targets.labels[image], targets.valid[image], strict=True):
        if valid:
            x1, y1, x2, y2 = (box / SIDE).tolist()
            found.append((((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), int(label)))
    return found


def gradient(task: BoxTask, priors: Priors, raw: Tensor, targets: Targets, seen: int = 10**6) -> Tensor:
    """Of the sum of the losses by raw outputs (B, A, 5 + K): x, y, w, h, objectness, classes."""
    raw = raw.clone().requires_grad_()
    predictions = Predictions(raw[..., 5:], raw[..., :4], raw[..., 4])
    sum(task.losses(predictions, priors, targets, seen=seen).values()).backward()  # type: ignore[union-attr]
    assert raw.grad is not None
    return raw.grad


def random_outputs(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, 5 + CLASSES, generator=generator) * 0.7


# ---------------------------------------------------------------------------------------------- version 3
def darknet_yolo(raw: list[list[list[float]]], targets: Targets, ignore: float) -> list[list[list[float]]]:
    """The layers ``yolo`` of one network: deltas for outputs [image][prior], priors level by level."""
    shapes = [shape for level in SHAPES_V3 for shape in level]
    grids = [(4, 0), (2, 2)]  # cells a side and first shape of each level
    deltas = [[[0.0] * len(row) for row in image] for image in raw]
    for b, image in enumerate(raw):
        start = 0
        for cells, first in grids:
            for place in range(cells * cells * 2):
                row, delta = image[start + place], deltas[b][start + place]
                col, line, n = place // 2 % cells, place // 2 // cells, place % 2
                w, h = shapes[first + n]
                box = (
                    (col + sigmoid(row[0])) / cells,
                    (line + sigmoid(row[1])) / cells,
                    math.exp(row[2]) * w / SIDE,
                    math.exp(row[3]) * h / SIDE,
                )
                best = max([iou(box, truth) for truth, _ in truths(targets, b)], default=0)
                delta[4] = 0 if best > ignore else 0 - sigmoid(row[4])
            start += cells * cells * 2
        for truth, label in truths(targets, b):
            centerd = (0.0, 0.0, truth[2], truth[3])
            best_n = max(range(4), key=lambda n: iou(centerd, (0, 0, shapes[n][0] / SIDE, shapes[n][1] / SIDE)))
            level = best_n // 2
            cells = grids[level][0]
            col, line = int(truth[0] * cells), int(truth[1] * cells)
            place = (32 if level else 0) + (line * cells + col) * 2 + best_n % 2
            row, delta = image[place], deltas[b][place]
            scale = 2 - truth[2] * truth[3]
            delta[0] = scale * (truth[0] * cells - col - sigmoid(row[0]))
            delta[1] = scale * (truth[1] * cells - line - sigmoid(row[1]))
            delta[2] = scale * (math.log(truth[2] * SIDE / shapes[best_n][0]) - row[2])
            delta[3] = scale * (math.log(truth[3] * SIDE / shapes[best_n][1]) - row[3])
            delta[4] = 1 - sigmoid(row[4])
            if delta[5]:  # an earlier object's classes: one more, and they stay
                delta[5 + label] = 1 - sigmoid(row[5 + label])
                continue
            for k in range(CLASSES):
                delta[5 + k] = (1 if k == label else 0) - sigmoid(row[5 + k])
    return deltas


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("ignore", "targets"), [(0.7, objects()), (0.3, objects()), (0.7, crowded())])
def test_version_3_has_darknets_gradients(seed: int, ignore: float, targets: Targets) -> None:
    priors = priors_of(Cells(SHAPES_V3), 4, 2)
    raw = random_outputs(40, seed)
    task = replace(V3_TASK, quality=Objectness(ignore=ignore))
    ours = gradient(task, priors, raw, targets)
    darknet = torch.tensor(darknet_yolo(raw.tolist(), targets, ignore))
    torch.testing.assert_close(ours * 2, -darknet, atol=1e-5, rtol=1e-5)  # two images: Darknet divides later


def test_version_3_by_hand() -> None:
    """One cell of 64 px, one shape of 32 x 32, one class, one object 32 x 16 centered at (16, 48), outputs all zero.

    Box: sigmoid(0) = .5, targets .25 and .75: two cross-entropies of ln 2; sides: 0 and ln .5, half of .480453;
    times 2 - 32 * 16 / 64^2 = 1.875. Objectness: ln 2 (its target is 1). Class: ln 2.
    """
    priors = Cells((((32.0, 32.0),),))(canvas(1), [torch.zeros(1, 1, 1, 1)], [64])
    targets = Targets.pad([Target(torch.tensor([[0.0, 40.0, 32.0, 56.0]]), torch.tensor([0]))])
    losses = V3_TASK.losses(Predictions(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4), torch.zeros(1, 1)), priors, targets)
    assert losses["cls"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert losses["quality"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert losses["box"].item() == pytest.approx(1.875 * (2 * math.log(2) + math.log(2) ** 2 / 2), abs=1e-5)


# ---------------------------------------------------------------------------------------------- version 2
def darknet_region(raw: list[list[list[float]]], targets: Targets, seen: int) -> list[list[list[float]]]:
    """The layer ``region``: x, y and objectness through the derivative of the logistic function, classes by softmax."""
    shapes, cells = SHAPES_V2[0], 2
    deltas = [[[0.0] * len(row) for row in image] for image in raw]

    def decoded(row: list[float], place: int) -> tuple[float, ...]:
        col, line, (w, h) = place // 2 % cells, place // 2 // cells, shapes[place % 2]
        x, y = (col + sigmoid(row[0])) / cells, (line + sigmoid(row[1])) / cells
        return x, y, math.exp(row[2]) * w / cells, math.exp(row[3]) * h / cells

    def box_delta(row: list[float], delta: list[float], place: int, truth: tuple[float, ...], scale: float) -> None:
        col, line, (w, h) = place // 2 % cells, place // 2 // cells, shapes[place % 2]
        delta[0] = scale * (truth[0] * cells - col - sigmoid(row[0]))
        delta[1] = scale * (truth[1] * cells - line - sigmoid(row[1]))
        delta[2] = scale * (math.log(truth[2] * cells / w) - row[2])
        delta[3] = scale * (math.log(truth[3] * cells / h) - row[3])

    for b, image in enumerate(raw):
        for place, (row, delta) in enumerate(zip(image, deltas[b], strict=True)):
            best = max([iou(decoded(row, place), truth) for truth, _ in truths(targets, b)], default=0)
            delta[4] = 0 if best > 0.6 else 0 - sigmoid(row[4])
            if seen < 12_800:
                col, line, (w, h) = place // 2 % cells, place // 2 // cells, shapes[place % 2]
                own = ((col + 0.5) / cells, (line + 0.5) / cells, w / cells, h / cells)
                box_delta(row, delta, place, own, 0.01)
        for truth, label in truths(targets, b):
            col, line = int(truth[0] * cells), int(truth[1] * cells)
            likeness = [iou((0, 0, truth[2], truth[3]), (0, 0, w / cells, h / cells)) for w, h in shapes]
            place = (line * cells + col) * 2 + likeness.index(max(likeness))
            row, delta = image[place], deltas[b][place]
            box_delta(row, delta, place, truth, 2 - truth[2] * truth[3])
            delta[4] = 5 * (iou(decoded(row, place), truth) - sigmoid(row[4]))
            top = [math.exp(v) for v in row[5:]]
            for k in range(CLASSES):
                delta[5 + k] = (1 if k == label else 0) - top[k] / sum(top)
        for row, delta in zip(image, deltas[b], strict=True):
            for k in (0, 1, 4):
                delta[k] *= sigmoid(row[k]) * (1 - sigmoid(row[k]))
    return deltas


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("seen", [0, 12_799, 12_800])
def test_version_2_has_darknets_gradients(seed: int, seen: int) -> None:
    priors = priors_of(Cells(SHAPES_V2, unit="cells"), 2)
    raw = random_outputs(8, seed)
    ours = gradient(V2_TASK, priors, raw, objects(), seen)
    darknet = torch.tensor(darknet_region(raw.tolist(), objects(), seen))
    torch.testing.assert_close(ours * 2, -darknet, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------------- version 1
def darknet_detection(raw: list[list[list[float]]], targets: Targets) -> list[list[list[float]]]:
    """The layer ``detection`` with ``sqrt`` and ``rescore``; class outputs are those of the first box of a cell."""
    cells = 2
    deltas = [[[0.0] * len(row) for row in image] for image in raw]
    for b, image in enumerate(raw):
        taken: dict[int, tuple[tuple[float, ...], int]] = {}
        for truth, label in truths(targets, b):
            if min(truth[2:]) >= 0.005:
                taken.setdefault(int(truth[1] * cells) * cells + int(truth[0] * cells), (truth, label))
        for row, delta in zip(image, deltas[b], strict=True):
            delta[4] = 0.5 * (0 - row[4])
        for cell, (truth, label) in taken.items():
            col, line = cell % cells, cell // cells
            pair = image[2 * cell : 2 * cell + 2]
            boxes = [((col + p[0]) / cells, (line + p[1]) / cells, p[2] ** 2, p[3] ** 2) for p in pair]
            overlaps = [iou(box, truth) for box in boxes]
            errors = [math.dist(box, truth) for box in boxes]
            best = overlaps.index(max(overlaps)) if max(overlaps) > 0 else errors.index(min(errors))
            row, delta = pair[best], deltas[b][2 * cell + best]
            delta[0] = 5 * (truth[0] * cells - col - row[0])
            delta[1] = 5 * (truth[1] * cells - line - row[1])
            delta[2] = 5 * (math.sqrt(truth[2]) - row[2])
            delta[3] = 5 * (math.sqrt(truth[3]) - row[3])
            delta[4] = overlaps[best] - row[4]
            for k in range(CLASSES):
                delta[5 + k] = (1 if k == label else 0) - row[5 + k]
    return deltas


@pytest.mark.parametrize("seed", range(8))
def test_version_1_has_darknets_gradients(seed: int) -> None:
    priors = priors_of(Cells((((1.0, 1.0), (1.0, 1.0)),), unit="cells"), 2)
    raw = random_outputs(8, seed)
    raw[:, 1::2, 5:] = raw[:, ::2, 5:]  # the class scores belong to the cell
    ours = gradient(V1_TASK, priors, raw, objects())
    darknet = torch.tensor(darknet_detection(raw.tolist(), objects()))
    torch.testing.assert_close(ours * 2, -darknet, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------------ matchers
def test_object_is_assigned_to_the_nearest_shape_in_its_center_cell() -> None:
    match = ShapeMatcher()(priors_of(Cells(SHAPES_V3), 4, 2), objects())
    # 12 x 12 at (10, 12): shape 10 x 14 of stride 16, cell (0, 0). 40 x 39 at (40, 41.5): 30 x 44 of stride 32, cell
    # (1, 1). 24 x 18 at (52, 11): its very shape at stride 16, cell column 3, row 0.
    assert match.positive[0].nonzero().flatten().tolist() == [0, 3 * 2 + 1, 32 + 3 * 2]
    assert match.gt[0, [0, 7, 38]].tolist() == [0, 2, 1]
    assert not match.positive[1].any() and not match.ignored.any()


def test_later_of_two_objects_on_one_prior_wins() -> None:
    boxes = torch.tensor([[2.0, 2.0, 12.0, 16.0], [3.0, 1.0, 13.0, 15.0]])
    match = ShapeMatcher()(priors_of(Cells(SHAPES_V3), 4, 2), Targets.pad([Target(boxes, torch.tensor([0, 1]))] * 2))
    assert match.positive.sum(1).tolist() == [1, 1] and match.gt[match.positive].tolist() == [1, 1]


def test_center_on_the_far_border_is_assigned_to_the_last_cell() -> None:
    boxes = torch.tensor([[64.0, 64.0, 64.0, 64.0]])  # an empty box in the corner: the worst a crop can leave
    priors = priors_of(Cells(SHAPES_V3), 4, 2)
    match = ShapeMatcher()(priors, Targets.pad([Target(boxes, torch.tensor([0]))] * 2))
    assert match.positive.sum(1).tolist() == [1, 1]
    encoded = GridCoder().encode(boxes.expand(2, len(priors.boxes), 4), priors.places(2))
    assert encoded.isfinite().all()


def test_chunking_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    priors, whole = priors_of(Cells(SHAPES_V3), 32, 16), None
    for budget in (1 << 20, 256):
        monkeypatch.setattr("foveal.parts.matching.matcher.CPU_BUDGET", budget)
        match = ShapeMatcher()(priors, objects())
        whole = whole or match
        assert torch.equal(match.positive, whole.positive) and torch.equal(match.gt, whole.gt)


def test_responsible_box_has_the_best_current_iou() -> None:
    priors = priors_of(Cells((((1.0, 1.0), (1.0, 1.0)),), unit="cells"), 2)
    far, near = torch.tensor([60.0, 60.0, 64.0, 64.0]), torch.tensor([5.0, 5.0, 20.0, 20.0])
    boxes = far.repeat(2, 8, 1)
    boxes[0, 1] = near
    match = Responsible()(priors, objects(), (boxes, torch.zeros(2, 8, 3)))
    assert match.positive[0].nonzero().flatten().tolist() == [1, 2, 6]  # no overlap in two cells: equal errors, first
    small = Targets.pad([Target(torch.tensor([[5.0, 5.0, 5.2, 30.0]]), torch.tensor([0]))] * 2)
    assert not Responsible()(priors, small, (boxes, torch.zeros(2, 8, 3))).positive.any()


def test_matchers_declare_their_inputs() -> None:
    plain = Priors(torch.zeros(4, 4), (4,))
    with pytest.raises(UsageError, match="only the priors Cells have"):
        ShapeMatcher()(plain, objects())
    with pytest.raises(UsageError, match="predicted boxes"):
        Responsible()(plain, objects())
    with pytest.raises(UsageError, match="grid cells of its priors, which only Cells have"):
        GridCoder().decode(torch.zeros(1, 4, 4), plain.places(1))


# ------------------------------------------------------------------------------------------ coder and losses
@pytest.mark.parametrize("coder", [GridCoder(), GridCoder(logistic=False, sides="square"), GridCoder(sides="logistic")])
def test_the_coder_is_its_own_inverse(coder: GridCoder) -> None:
    priors = priors_of(Cells(SHAPES_V3), 4, 2).places(2)
    generator = torch.Generator().manual_seed(1)
    deltas = torch.randn(2, 40, 4, generator=generator)
    deltas[..., 2:] = deltas[..., 2:].abs() + 0.1
    if not coder.logistic:
        deltas[..., :2] = torch.rand(2, 40, 2, generator=generator)
    boxes = coder.decode(deltas, priors)
    torch.testing.assert_close(coder.encode(boxes, priors), deltas, atol=1e-4, rtol=1e-4)
    assert (boxes[..., 2:] >= boxes[..., :2]).all()


def test_huge_exponent_decodes_to_a_valid_box() -> None:
    priors = priors_of(Cells(SHAPES_V3), 4, 2).places(2)
    assert GridCoder().decode(torch.full((2, 40, 4), 1e4), priors).isfinite().all()


NEW_COORDS = replace(  # as of a [yolo] layer of Scaled-YOLOv4
    V3_TASK,
    matcher=ShapeMatcher(also=0.2),
    cls_loss=SquaredError(logistic=True),
    box_loss=DarknetIoU("ciou", largest=2.0, weight=0.05),
    coder=GridCoder(sides="logistic"),
    quality=Objectness("squared", target="iou", ignore=0.7, above="iou", levels=(0.4,)),
)
TASKS = {"v1": V1_TASK, "v2": V2_TASK, "v3": V3_TASK, "new_coords": NEW_COORDS}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
@pytest.mark.parametrize("change", [{}, {"box_loss": GIoU()}, {"cls_loss": Focal()}], ids=["own", "giou", "focal"])
def test_any_loss_works_and_empty_images_are_handled(task: BoxTask, change: dict[str, object]) -> None:
    cells = Cells((((1.0, 1.0), (1.0, 1.0)),), unit="cells")
    priors = priors_of(cells, 4)
    raw = random_outputs(32, 3)
    for targets in (objects(), Targets.pad([Target(torch.zeros(0, 4), torch.zeros(0).long())] * 2)):
        assert gradient(replace(task, **change), priors, raw, targets, seen=0).isfinite().all()  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_losses_are_one_graph(task: BoxTask) -> None:
    """torch.compile finds no graph break."""
    priors, raw = priors_of(Cells((((1.0, 1.0), (1.0, 1.0)),), unit="cells"), 4), random_outputs(32, 3)
    targets = objects()
    torch._dynamo.reset()
    explanation = torch._dynamo.explain(
        lambda x: task.losses(Predictions(x[..., 5:], x[..., :4], x[..., 4]), priors, targets)
    )(raw)
    assert explanation.graph_break_count == 0, explanation.break_reasons


def test_settings_are_checked() -> None:
    for wrong in (
        lambda: Cells(()),
        lambda: Cells((((0.0, 1.0),),)),
        lambda: GridCoder(sides="log"),  # type: ignore[arg-type]
        lambda: YOLOBoxLoss(warmup_images=-1),
        lambda: Objectness(ignore=2.0),
        lambda: Upsampling((8,), (4,)),
        lambda: GridHead(hidden=8, local=8),
        lambda: GridHead(hidden=0),
        lambda: GridHead(hidden=None, local=0),
        lambda: GridHead().build((8,), (2, 2), 3, None),
        lambda: CellHead(channels=(0,)),
        lambda: CellHead(prior=2.0),
        lambda: CellHead().build((8, 8), (3,), 3, None),
        lambda: Upsampling((8,), (-1,)),
        lambda: Upsampling((0,), (1,)),
        lambda: Passthrough(narrow=0),
        lambda: Passthrough(depth=-1),
        lambda: Objectness(positive=-1.0),
    ):
        with pytest.raises(UsageError):
            wrong()


# ---------------------------------------------------------------------------------------------- box counts
@pytest.mark.parametrize(
    ("name", "side", "boxes"),
    [
        ("yolo_v1", 448, 98),
        ("yolo_v2", 416, 845),
        ("yolo_v2", 544, 1445),
        ("yolo_v2", 608, 1805),
        ("yolo_v3", 320, 6300),
        ("yolo_v3", 416, 10_647),
        ("yolo_v3", 608, 22_743),
        ("yolo_v3_tiny", 416, 2535),
    ],
)
def test_box_counts(name: str, side: int, boxes: int) -> None:
    with torch.device("meta"):
        detector = presets.get(name).build([f"c{i}" for i in range(20)]).eval()
        sides = torch.zeros(1, 2)
        outputs = detector.outputs(Images(torch.zeros(1, 3, side, side), sides, torch.zeros(1, 4), sides))
    assert outputs.layers[-1].deltas.shape == (1, boxes, 4) and outputs.priors.boxes.shape == (boxes, 4)


# -------------------------------------------------------------------------------------------------- layers
def test_reorg_moves_memory_as_darknet_does() -> None:
    x = torch.arange(2 * 8 * 6 * 4, dtype=torch.float32).reshape(2, 8, 6, 4)
    wanted = torch.empty(2, 8 * 6 * 4)
    for b in range(2):
        flat = x[b].flatten()
        for k in range(8):
            for j in range(6):
                for i in range(4):
                    offset, channel = k // 2, k % 2
                    source = (i * 2 + offset % 2) + 8 * ((j * 2 + offset // 2) + 12 * channel)
                    wanted[b, i + 4 * (j + 6 * k)] = flat[source]
    assert torch.equal(reorg(x), wanted.view(2, 32, 3, 2))


def test_necks_and_head_accept_any_levels() -> None:
    maps = [torch.randn(1, 8, 12, 16), torch.randn(1, 16, 6, 8), torch.randn(1, 32, 3, 4)]
    neck = Upsampling((4, 8, 16), (5, 0, 1), pooled=False).build((8, 16, 32), (8, 16, 32)).eval()
    found = neck(maps)
    assert [tuple(f.shape[1:]) for f in found] == [(4, 12, 16), (24, 6, 8), (16, 3, 4)]
    assert neck.channels == (4, 24, 16)
    head = CellHead(prior=0.01).build(neck.channels, (3, 3, 2), 5, None).eval()
    predictions = head(found)
    assert predictions.logits.shape == (1, 3 * 192 + 3 * 48 + 2 * 12, 5)
    joined = Passthrough(8, 16).build((16, 32), (16, 32)).eval()
    assert joined(maps[1:])[0].shape == (1, 48, 3, 4)
    with pytest.raises(UsageError, match="strides differ by a factor of 2"):
        Passthrough().build((16, 32), (8, 32))


def test_grid_outputs_are_in_darknet_order() -> None:
    x = torch.arange(4 * (3 + 2 * 5), dtype=torch.float32)[None]
    found = split_grid(x, cells=4, boxes=2, logits=3)
    assert found.logits[0, 2].tolist() == found.logits[0, 3].tolist() == [3.0, 4.0, 5.0]  # the second cell's, twice
    assert found.quality is not None and found.quality[0, 3].item() == 12 + 3
    assert found.deltas[0, 3].tolist() == [20 + 12.0, 33, 34, 35]


def test_a_local_layer_is_a_convolution_where_its_filters_agree() -> None:
    local, conv = LocallyConnected(3, 4, (5, 5)), torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    with torch.no_grad():
        local.weight.copy_(conv.weight.flatten(1).expand(25, -1, -1))
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(local(x), conv(x), atol=1e-5, rtol=1e-5)


def test_local_layer_reports_the_expected_map_size() -> None:
    assert LocallyConnected(3, 4, (5, 4))(torch.zeros(1, 3, 5, 4)).shape == (1, 4, 5, 4)
    with pytest.raises(UsageError, match="expects 5 x 5 locations, got 5 x 4"):
        LocallyConnected(3, 4, (5, 5))(torch.zeros(1, 3, 5, 4))


def test_grid_head_reports_the_expected_canvas() -> None:
    head = GridHead(side=4, hidden=8).build((6,), (2,), 3, None)
    assert head([torch.zeros(1, 6, 4, 4)]).deltas.shape == (1, 32, 4)
    with pytest.raises(UsageError, match="4 x 4 cells, but the map is 5 x 4"):
        head([torch.zeros(1, 6, 5, 4)])


def test_raw_maps_split_prior_by_prior() -> None:
    raw = torch.arange(2 * 8 * 2 * 3, dtype=torch.float32).reshape(1, 16, 2, 3)
    found = split_cells([raw], 3)
    assert found.deltas[0, 3].tolist() == raw[0, 8:12, 0, 1].tolist()  # second cell, second prior
    assert found.quality is not None and found.quality[0, 3] == raw[0, 12, 0, 1]
    assert found.logits[0, 3].tolist() == raw[0, 13:, 0, 1].tolist()
