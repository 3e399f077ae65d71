"""One training step of RetinaNet on timm's EfficientNet-Lite0: torchvision's class and foveal's, norms frozen.

    python benchmarks/lite_training.py --batch 4 --height 320 --width 448

The same backbone with the same random weights, pyramid width, anchors and images; the head, its losses and its
matching are each project's own (torchvision's has four convolutions a tower, ``retinanet_mini``'s has two). With
``--frozen`` two of the three stages that the pyramid reads are frozen in both. Forward, loss, backward and AdamW.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import timm
import torch
from common import parser, race, setup
from peers import batch, objects, random_images
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7
from training import as_trained, step

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.parts.backbones.timm import Timm
from foveal.runtime.precision import fast_bf16

NAME, WIDTH, CLASSES = "tf_efficientnet_lite0", 96, 3


class Maps(nn.Module):
    """timm's maps of strides 8, 16 and 32, and torchvision's pyramid on them."""

    out_channels = WIDTH

    def __init__(self) -> None:
        super().__init__()
        network = timm.create_model(NAME, features_only=True, out_indices=(2, 3, 4))
        self.body = freeze_batch_norm_2d(network)
        self.fpn = FeaturePyramidNetwork(network.feature_info.channels(), WIDTH, LastLevelP6P7(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps: OrderedDict[str, Tensor] = self.fpn(OrderedDict((str(i), m) for i, m in enumerate(self.body(x))))
        return maps


def reference(height: int, width: int, frozen: int) -> nn.Module:
    body = Maps()
    if frozen:
        spec = Timm(NAME, frozen_stages=frozen).build((3, 4, 5))
        still = {name.removeprefix("network.") for name, p in spec.named_parameters() if not p.requires_grad}
        for name, p in body.body.named_parameters():
            p.requires_grad_(name not in still)
    sizes = tuple(tuple(3 * s * 2 ** (o / 3) for o in range(3)) for s in (8, 16, 32, 64, 128))
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    head = RetinaNetHead(WIDTH, 9, CLASSES)
    half = [0.5] * 3
    return RetinaNet(
        body, CLASSES, min_size=min(height, width), max_size=max(height, width), anchor_generator=anchors, head=head,
        image_mean=half, image_std=half,
    )  # fmt: skip


def ours(frozen: int) -> Detector:
    spec = replace(presets.retinanet_mini, backbone=Timm(NAME, frozen_stages=frozen))
    return spec.build([f"c{i}" for i in range(CLASSES)])


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--height", type=int, default=320)
    p.add_argument("--width", type=int, default=448)
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--frozen", type=int, default=0, help="stages of the backbone that do not learn")
    args = setup(p)
    torch.manual_seed(0)
    theirs, mine = reference(args.height, args.width, args.frozen).train(), as_trained(ours(args.frozen), "32")
    images, truth = random_images(args.batch, args.height, args.width), objects(args.batch, 4, args.height, args.width)
    truth = [{**t, "labels": t["labels"] % CLASSES} for t in truth]
    raw, targets = batch(images, [{**t, "labels": t["labels"] + 1} for t in truth])
    contenders = {
        "torchvision fp32": step(theirs, lambda: theirs(images, [dict(t) for t in truth]), optimizer=torch.optim.AdamW),
        "foveal fp32": step(mine, lambda: mine(raw, targets), optimizer=torch.optim.AdamW),
    }
    if fast_bf16(torch.device("cpu")):
        half = as_trained(ours(args.frozen), "bf16")
        contenders["foveal bf16"] = step(half, lambda: half(raw, targets), bf16=True, optimizer=torch.optim.AdamW)
    title = f"training step, RetinaNet on {NAME}, {args.batch} x {args.height} x {args.width}, {args.frozen} frozen"
    for name, seconds in race(title, contenders, rounds=args.rounds).items():
        print(f"{name:24s} {args.batch / seconds:6.2f} images/s")


if __name__ == "__main__":
    main()
