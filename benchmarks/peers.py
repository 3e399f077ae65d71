"""A torchvision detector and foveal's with the same random weights, scaled so that activations stay finite."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.types import Images, Target, Targets
from foveal.weights.keys_torchvision import torchvision_to_ours

PRESET = {
    "fasterrcnn_resnet50_fpn": "faster_rcnn_r50_fpn",
    "retinanet_resnet50_fpn": "retinanet_r50_fpn",
    "fcos_resnet50_fpn": "fcos_r50_fpn",
    "ssd300_vgg16": "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large": "ssdlite320_mobilenet_v3_large",
}
FIXED = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}  # pixels: no other size is accepted


def pair(name: str, short: int = 800, long: int = 1333) -> tuple[nn.Module, Detector]:
    """Torchvision's model (a ResNet has frozen norms, as with its trained weights) and foveal's preset of it."""
    torch.manual_seed(0)
    theirs = getattr(detection, name)(weights=None, weights_backbone=None)
    spec = presets.get(PRESET[name])
    if name in FIXED:
        _calm(theirs)
    else:
        _freeze(theirs)
        theirs.transform.min_size, theirs.transform.max_size = (short,), long
        spec = replace(spec, input=replace(spec.input, short=short, long=long))
        body = theirs.backbone.body
        for p in (*body.conv1.parameters(), *body.layer1.parameters()):  # what training from ImageNet weights freezes
            p.requires_grad_(False)
    background = name.startswith(("faster", "ssd"))  # the others have a column for class 0, which is never trained
    ours = spec.build([f"c{i}" for i in range(91 - background)])
    known = set(ours.state_dict())
    ours.load_state_dict(
        {k: v for k, v in torchvision_to_ours(theirs.state_dict()).items() if k in known or "tracked" not in k}
    )
    counts = [trained_parameters(theirs), trained_parameters(ours)]
    assert counts[0] == counts[1], f"{name}: torchvision trains {counts[0]} parameters, foveal {counts[1]}"
    return theirs, ours.to(memory_format=torch.channels_last)


def trained_parameters(detector: nn.Module) -> int:
    """The number of parameters that a training step changes.

    Torchvision's Faster R-CNN also has four box outputs for the background. No loss reaches them, and foveal's has
    none, so they do not count.
    """
    count = sum(p.numel() for p in detector.parameters() if p.requires_grad)
    for module in detector.modules():
        if isinstance(module, FastRCNNPredictor):
            count -= 4 * (module.bbox_pred.in_features + 1)
    return count


def _calm(module: nn.Module) -> None:
    """VGG's pixels range from 0 to 255: a smaller first layer keeps the activations of a random network finite.

    Its first stage is frozen, as in torchvision's training from ImageNet weights.
    """
    first = module.backbone.features[0]
    if isinstance(first, nn.Conv2d):
        first.weight.data /= 60
        module.backbone.features[:4].requires_grad_(False)


def _freeze(module: nn.Module) -> None:
    g = torch.Generator().manual_seed(7)
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            n = child.num_features
            norm = FrozenBatchNorm2d(n, eps=child.eps)
            norm.weight.copy_(
                0.35 + 0.1 * torch.rand(n, generator=g)
            )  # keeps the activations of a random network finite
            norm.bias.copy_(0.1 * torch.randn(n, generator=g))
            setattr(module, name, norm)
        else:
            _freeze(child)


def random_images(count: int, height: int, width: int) -> list[torch.Tensor]:
    """Smooth random images (3, height, width) in 0..1."""
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 3, 16, 16, generator=g)
    return list(nn.functional.interpolate(noise, (height, width), mode="bicubic").sigmoid().contiguous())


def objects(count: int, each: int, height: int, width: int) -> list[dict[str, torch.Tensor]]:
    """Random objects in torchvision's form (labels from 1)."""
    g = torch.Generator().manual_seed(2)
    targets = []
    for _ in range(count):
        side = torch.exp(torch.rand(each, 2, generator=g) * 3) * 0.02 * torch.tensor([width, height])
        corner = torch.rand(each, 2, generator=g) * (torch.tensor([width, height]) - side)
        targets.append(
            {"boxes": torch.cat([corner, corner + side], 1), "labels": torch.randint(1, 80, (each,), generator=g)}
        )
    return targets


def batch(images: list[torch.Tensor], truth: list[dict[str, torch.Tensor]]) -> tuple[Images, Targets]:
    """The same in the form of foveal's loader: raw bytes, channels-last, padded targets."""
    h, w = images[0].shape[-2:]
    pixels = torch.stack(images).mul(255).round().to(torch.uint8).contiguous(memory_format=torch.channels_last)
    size = torch.tensor([[h, w]] * len(images))
    frame = torch.tensor([[1.0, 1, 0, 0]] * len(images))
    targets = Targets.pad([Target(t["boxes"], t["labels"] - 1) for t in truth])
    return Images(pixels, size, frame, size), targets
