"""Detectron2's and MMDetection's ResNet-50-FPN detectors in plain PyTorch, from their names and published facts alone.

Everything is a function of a state dict under the tool's own keys. One image at a time, float32, on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, roi_align

State = dict[str, Tensor]
BLOCKS = (3, 4, 6, 3)


@dataclass(frozen=True)
class Tool:
    """The names of one tool's layers, and what it does otherwise."""

    name: str
    block: Callable[[int, int, str], tuple[str, str]]  # stage 1..4, block, part -> convolution, norm
    stem: tuple[str, str]
    lateral: Callable[[int], str]  # index from the finest level on
    output: Callable[[int], str]
    p6p7: tuple[str, str]
    rpn: tuple[str, str, str]  # convolution, objectness, deltas
    box: tuple[str, str, str, str]  # two connected layers, classes, deltas
    mask: tuple[Callable[[int], str], str, str]
    tower: Callable[[str, int], str]  # "cls" or "reg", index
    retina: tuple[str, str]
    caffe: bool  # strides in the 1 x 1 convolutions, BGR pixels with a std of 1
    p7_relu: bool
    size_major: bool  # the order of the anchors of a cell: sizes change slowest
    clips_late: bool  # RetinaNet's boxes are clipped after their suppression


def _d2_block(stage: int, block: int, part: str) -> tuple[str, str]:
    name = f"backbone.bottom_up.res{stage + 1}.{block}.{'shortcut' if part == 'short' else part}"
    return name, name + ".norm"


def _mm_block(stage: int, block: int, part: str) -> tuple[str, str]:
    base = f"backbone.layer{stage}.{block}."
    if part == "short":
        return base + "downsample.0", base + "downsample.1"
    return base + part, base + part.replace("conv", "bn")


def detectron2(first: int) -> Tool:
    """``first``: the finest level, 2 for the region detectors, 3 for RetinaNet."""
    return Tool(
        "Detectron2",
        _d2_block,
        ("backbone.bottom_up.stem.conv1", "backbone.bottom_up.stem.conv1.norm"),
        lambda i: f"backbone.fpn_lateral{i + first}",
        lambda i: f"backbone.fpn_output{i + first}",
        ("backbone.top_block.p6", "backbone.top_block.p7"),
        (
            "proposal_generator.rpn_head.conv",
            "proposal_generator.rpn_head.objectness_logits",
            "proposal_generator.rpn_head.anchor_deltas",
        ),
        (
            "roi_heads.box_head.fc1",
            "roi_heads.box_head.fc2",
            "roi_heads.box_predictor.cls_score",
            "roi_heads.box_predictor.bbox_pred",
        ),
        (
            lambda i: f"roi_heads.mask_head.mask_fcn{i + 1}",
            "roi_heads.mask_head.deconv",
            "roi_heads.mask_head.predictor",
        ),
        lambda kind, i: f"head.{'cls' if kind == 'cls' else 'bbox'}_subnet.{2 * i}",
        ("head.cls_score", "head.bbox_pred"),
        caffe=True,
        p7_relu=True,
        size_major=True,
        clips_late=True,
    )


def mmdetection(first: int, caffe: bool) -> Tool:
    last = 6 - first
    return Tool(
        "MMDetection",
        _mm_block,
        ("backbone.conv1", "backbone.bn1"),
        lambda i: f"neck.lateral_convs.{i}.conv",
        lambda i: f"neck.fpn_convs.{i}.conv",
        (f"neck.fpn_convs.{last}.conv", f"neck.fpn_convs.{last + 1}.conv"),
        ("rpn_head.rpn_conv", "rpn_head.rpn_cls", "rpn_head.rpn_reg"),
        (
            "roi_head.bbox_head.shared_fcs.0",
            "roi_head.bbox_head.shared_fcs.1",
            "roi_head.bbox_head.fc_cls",
            "roi_head.bbox_head.fc_reg",
        ),
        (
            lambda i: f"roi_head.mask_head.convs.{i}.conv",
            "roi_head.mask_head.upsample",
            "roi_head.mask_head.conv_logits",
        ),
        lambda kind, i: f"bbox_head.{kind}_convs.{i}.conv",
        ("bbox_head.retina_cls", "bbox_head.retina_reg"),
        caffe=caffe,
        p7_relu=False,
        size_major=False,
        clips_late=False,
    )


# ------------------------------------------------------------------------------------------------ weights
def random_state(tool: Tool, kind: str, classes: int, seed: int = 0) -> State:
    """A state of random values with the tool's keys and shapes."""
    rng = torch.Generator().manual_seed(seed)
    state: State = {}

    def layer(name: str, *shape: int, bias: bool = True, gain: float = 1.0) -> None:
        fan = math.prod(shape[1:])
        state[f"{name}.weight"] = torch.randn(shape, generator=rng) * gain * (2 / fan) ** 0.5
        if bias:
            state[f"{name}.bias"] = torch.randn(shape[0], generator=rng) * 0.1

    def norm(name: str, channels: int, scale: float = 1.0) -> None:
        state[f"{name}.weight"] = (0.5 + torch.rand(channels, generator=rng)) * scale
        state[f"{name}.bias"] = torch.randn(channels, generator=rng) * 0.1
        state[f"{name}.running_mean"] = torch.randn(channels, generator=rng) * 0.1
        state[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=rng)

    layer(tool.stem[0], 64, 3, 7, 7, bias=False, gain=0.01 if tool.caffe else 1.0)
    norm(tool.stem[1], 64)
    inputs = 64
    for stage, count in enumerate(BLOCKS, 1):
        width = 64 * 2 ** (stage - 1)
        for block in range(count):
            shapes = {"conv1": (width, inputs, 1, 1), "conv2": (width, width, 3, 3), "conv3": (4 * width, width, 1, 1)}
            if block == 0:
                shapes["short"] = (4 * width, inputs, 1, 1)
            for part, shape in shapes.items():
                conv, bn = tool.block(stage, block, part)
                layer(conv, *shape, bias=False)
                norm(bn, shape[0], 0.3 if part == "conv3" else 0.7)
            inputs = 4 * width
    maps = (512, 1024, 2048) if kind == "retinanet" else (256, 512, 1024, 2048)
    for i, channels in enumerate(maps):
        layer(tool.lateral(i), 256, channels, 1, 1)
        layer(tool.output(i), 256, 256, 3, 3)
    if kind == "retinanet":
        layer(tool.p6p7[0], 256, 2048, 3, 3)
        layer(tool.p6p7[1], 256, 256, 3, 3)
        for branch in ("cls", "reg"):
            for i in range(4):
                layer(tool.tower(branch, i), 256, 256, 3, 3)
        layer(tool.retina[0], 9 * classes, 256, 3, 3, gain=0.5)
        state[f"{tool.retina[0]}.bias"] -= 3.0
        layer(tool.retina[1], 36, 256, 3, 3, gain=0.3)
        return state
    layer(tool.rpn[0], 256, 256, 3, 3)
    layer(tool.rpn[1], 3, 256, 1, 1)
    layer(tool.rpn[2], 12, 256, 1, 1, gain=0.2)
    layer(tool.box[0], 1024, 256 * 49)
    layer(tool.box[1], 1024, 1024)
    layer(tool.box[2], classes + 1, 1024, gain=0.5)
    layer(tool.box[3], 4 * classes, 1024, gain=1.0)
    if kind == "mask_rcnn":
        for i in range(4):
            layer(tool.mask[0](i), 256, 256, 3, 3)
        state[f"{tool.mask[1]}.weight"] = torch.randn(256, 256, 2, 2, generator=rng) * 0.05  # transposed: in, out
        state[f"{tool.mask[1]}.bias"] = torch.randn(256, generator=rng) * 0.1
        layer(tool.mask[2], classes, 256, 1, 1)
    return state


# ------------------------------------------------------------------------------------------------ network
def conv(state: State, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride, padding)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def normed(state: State, names: tuple[str, str], x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    x, n = conv(state, names[0], x, stride, padding), names[1]
    mean, var, weight, bias = (state[f"{n}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, 1e-5)


def pixels_of(tool: Tool, image: Tensor) -> Tensor:
    """RGB (H, W, 3) uint8 -> (1, 3, h, w), padded with zeros to multiples of 32."""
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    x = image.float()
    x = (x.flip(-1) - mean.flip(-1)) if tool.caffe else (x - mean) / std
    x = x.permute(2, 0, 1)[None]
    return F.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32))


def maps_of(tool: Tool, state: State, x: Tensor, kind: str) -> list[Tensor]:
    x = F.max_pool2d(normed(state, tool.stem, x, 2, 3).relu(), 3, 2, 1)
    found = []
    for stage, count in enumerate(BLOCKS, 1):
        for block in range(count):
            s = 2 if stage > 1 and block == 0 else 1
            first, second = (s, 1) if tool.caffe else (1, s)
            y = normed(state, tool.block(stage, block, "conv1"), x, first).relu()
            y = normed(state, tool.block(stage, block, "conv2"), y, second, 1).relu()
            y = normed(state, tool.block(stage, block, "conv3"), y)
            x = (y + (normed(state, tool.block(stage, block, "short"), x, s) if block == 0 else x)).relu()
        found.append(x)
    used = found[1:] if kind == "retinanet" else found
    merged = [conv(state, tool.lateral(i), m) for i, m in enumerate(used)]
    for i in range(len(merged) - 1, 0, -1):
        merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], scale_factor=2.0, mode="nearest")
    out = [conv(state, tool.output(i), m, 1, 1) for i, m in enumerate(merged)]
    if kind == "retinanet":
        p6 = conv(state, tool.p6p7[0], found[-1], 2, 1)
        return [*out, p6, conv(state, tool.p6p7[1], p6.relu() if tool.p7_relu else p6, 2, 1)]
    return [*out, F.max_pool2d(out[-1], 1, 2)]


def anchors_of(maps: list[Tensor], strides: list[int], sizes: list[list[float]], size_major: bool) -> list[Tensor]:
    """(h w A, 4) a level, centered at the corners of cells: three ratios, height / width .5, 1, 2."""
    levels = []
    for m, stride, level in zip(maps, strides, sizes, strict=True):
        pairs = [(s, r) for s in level for r in (0.5, 1.0, 2.0)]
        if not size_major:
            pairs = [(s, r) for r in (0.5, 1.0, 2.0) for s in level]
        boxes = []
        for row in range(m.shape[2]):
            for column in range(m.shape[3]):
                for size, ratio in pairs:
                    w = math.sqrt(size * size / ratio)
                    h = ratio * w
                    x, y = column * stride, row * stride
                    boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        levels.append(torch.tensor(boxes))
    return levels


def decode(deltas: Tensor, boxes: Tensor, weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = boxes[:, 0] + w / 2, boxes[:, 1] + h / 2
    dx, dy, dw, dh = (deltas / torch.tensor(weights)).unbind(-1)
    limit = math.log(1000 / 16)
    cx, cy = dx * w + x, dy * h + y
    nw, nh = dw.clamp(max=limit).exp() * w, dh.clamp(max=limit).exp() * h
    return torch.stack([cx - nw / 2, cy - nh / 2, cx + nw / 2, cy + nh / 2], -1)


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    limits = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32)
    return boxes.clamp(min=0).minimum(limits)


def nonempty(boxes: Tensor) -> Tensor:
    return ((boxes[:, 2:] - boxes[:, :2]) > 0).all(-1)


def by_anchor(x: Tensor, values: int) -> Tensor:
    return x.view(1, -1, values, *x.shape[2:]).permute(0, 3, 4, 1, 2).reshape(-1, values)


@torch.no_grad()
def detect(
    tool: Tool, state: State, kind: str, image: Tensor, proposals: int = 1000
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Boxes (n, 4), scores, labels and mask probabilities (n, 28, 28) of an image that is not resized."""
    size = (image.shape[0], image.shape[1])
    maps = maps_of(tool, state, pixels_of(tool, image), kind)
    if kind == "retinanet":
        return (*_retinanet(tool, state, maps, size), None)
    return _regions(tool, state, maps, _proposals(tool, state, maps, size, proposals), size, kind)


def _retinanet(tool: Tool, state: State, maps: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    strides = [8, 16, 32, 64, 128]
    sizes = [[4 * s * 2 ** (o / 3) for o in range(3)] for s in strides]
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for m, anchors in zip(maps, anchors_of(maps, strides, sizes, tool.size_major), strict=True):
        outputs = []
        for branch, last in zip(("cls", "reg"), tool.retina, strict=True):
            x = m
            for i in range(4):
                x = conv(state, tool.tower(branch, i), x, 1, 1).relu()
            outputs.append(conv(state, last, x, 1, 1))
        classes = outputs[0].shape[1] // 9
        scores = by_anchor(outputs[0], classes).sigmoid().flatten()
        order = scores.argsort(descending=True, stable=True)
        order = order[scores[order] > 0.05][:1000]
        boxes = decode(by_anchor(outputs[1], 4)[order // classes], anchors[order // classes])
        found.append((boxes, scores[order], order % classes))
    boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    if not tool.clips_late:
        boxes = clipped(boxes, size)
        real = nonempty(boxes)
        boxes, scores, labels = boxes[real], scores[real], labels[real]
    keep = batched_nms(boxes, scores, labels, 0.5)[:100]
    return clipped(boxes[keep], size), scores[keep], labels[keep]


def _proposals(tool: Tool, state: State, maps: list[Tensor], size: tuple[int, int], count: int) -> Tensor:
    strides = [4, 8, 16, 32, 64]
    levels = anchors_of(maps, strides, [[8.0 * s] for s in strides], tool.size_major)
    boxes, scores, level_of = [], [], []
    for i, (m, anchors) in enumerate(zip(maps, levels, strict=True)):
        x = conv(state, tool.rpn[0], m, 1, 1).relu()
        logits = by_anchor(conv(state, tool.rpn[1], x), 1).flatten()
        deltas = by_anchor(conv(state, tool.rpn[2], x), 4)
        order = logits.argsort(descending=True, stable=True)[:1000]
        boxes.append(clipped(decode(deltas[order], anchors[order]), size))
        scores.append(logits[order])
        level_of.append(torch.full_like(order, i))
    all_boxes, all_scores, all_levels = torch.cat(boxes), torch.cat(scores), torch.cat(level_of)
    real = nonempty(all_boxes)
    all_boxes, all_scores, all_levels = all_boxes[real], all_scores[real], all_levels[real]
    return all_boxes[batched_nms(all_boxes, all_scores, all_levels, 0.7)[:count]]


def pooled(maps: list[Tensor], boxes: Tensor, size: int) -> Tensor:
    """RoIAlign with true locations and adaptive sampling, each box from the level of its size."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.floor(4 + torch.log2(side / 224 + 1e-8)).clamp(2, 5).long() - 2
    out = torch.zeros(len(boxes), 256, size, size)
    for i in range(4):
        at = (level == i).nonzero().flatten()
        if len(at):
            out[at] = roi_align(maps[i], [boxes[at]], size, 1 / 2 ** (i + 2), sampling_ratio=-1, aligned=True)
    return out


def _regions(
    tool: Tool, state: State, maps: list[Tensor], proposals: Tensor, size: tuple[int, int], kind: str
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    x = pooled(maps, proposals, 7).flatten(1)
    x = linear(state, tool.box[1], linear(state, tool.box[0], x).relu()).relu()
    scores = linear(state, tool.box[2], x).softmax(-1)[:, :-1]
    deltas = linear(state, tool.box[3], x).view(len(x), -1, 4)
    rows, labels = (scores > 0.05).nonzero().unbind(-1)
    boxes = clipped(decode(deltas[rows, labels], proposals[rows], (10.0, 10.0, 5.0, 5.0)), size)
    values = scores[rows, labels]
    keep = batched_nms(boxes, values, labels, 0.5)[:100]
    boxes, values, labels = boxes[keep], values[keep], labels[keep]
    if kind != "mask_rcnn":
        return boxes, values, labels, None
    m = pooled(maps, boxes, 14)
    for i in range(4):
        m = conv(state, tool.mask[0](i), m, 1, 1).relu()
    m = F.conv_transpose2d(m, state[f"{tool.mask[1]}.weight"], state[f"{tool.mask[1]}.bias"], 2).relu()
    masks = conv(state, tool.mask[2], m).sigmoid()
    return boxes, values, labels, masks[torch.arange(len(masks)), labels]


TOOLS: dict[str, Callable[[int], Tool]] = {
    "detectron2": detectron2,
    "mmdetection": lambda first: mmdetection(first, caffe=False),
    "mmdetection-caffe": lambda first: mmdetection(first, caffe=True),
}
