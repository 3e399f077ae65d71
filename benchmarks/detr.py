"""DETR-R50 against transformers' with the same weights: a training step, and inference from pixels and from a file.

    python benchmarks/detr.py --only training --size 416
    python benchmarks/detr.py --only inference --short 800

Both train with auxiliary losses. Images for transformers are normalized beforehand; foveal takes bytes. transformers
applies no dropout to attention weights and inside the feed-forward blocks, where the original code and foveal do:
--dropout 0 turns it off on both sides.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import OpCount, parser, race, setup
from peers import batch, objects, random_images
from PIL import Image
from torch import Tensor, nn
from training import step
from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.checkpoints.load import ready
from foveal.data.images.load import load_image
from foveal.parts.layers.norms import FrozenBatchNorm
from foveal.runtime.precision import fast_bf16, layout
from foveal.weights.keys_detr import detr_to_theirs

CPU = torch.device("cpu")


def pair(short: int, long: int, auxiliary: bool, dropout: float = 0.1) -> tuple[nn.Module, Detector]:
    torch.manual_seed(0)
    spec, head = presets.detr_r50, replace(presets.detr_r50.head, dropout=dropout)
    spec = replace(spec, input=replace(spec.input, short=short, long=long), head=head)
    ours = spec.build([f"c{i}" for i in range(91)])
    for m in ours.modules():
        if isinstance(m, FrozenBatchNorm):
            m.weight.fill_(0.4)  # keeps the activations of a random network finite
    theirs = DetrForObjectDetection(
        DetrConfig(num_labels=91, use_timm_backbone=True, auxiliary_loss=auxiliary, dropout=dropout)
    )
    theirs.load_state_dict(detr_to_theirs(ours.state_dict(), "transformers"))
    for name, parameter in theirs.named_parameters():  # with timm's ResNet transformers freezes nothing
        if "backbone" in name and not any(f"layer{k}." in name for k in (2, 3, 4)):
            parameter.requires_grad_(False)
    counts = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in (theirs, ours)]
    assert counts[0] == counts[1], f"transformers trains {counts[0]} parameters, foveal {counts[1]}"
    return theirs, ours.to(memory_format=torch.channels_last)


def training(args: Any) -> None:
    height, width = args.size * 3 // 4, args.size
    theirs, ours = pair(height, width, auxiliary=True, dropout=args.dropout)
    theirs.train(), ours.train().to(memory_format=layout(ours, CPU))
    images, truth = random_images(args.batch, height, width), objects(args.batch, args.objects, height, width)
    raw, targets = batch(images, truth)
    pixels, mask = ours.normalize(raw).pixels.contiguous(), torch.ones(args.batch, height, width)
    sides = torch.tensor([width, height, width, height])
    labels = [{"class_labels": t["labels"] - 1, "boxes": to_cxcywh(t["boxes"] / sides)} for t in truth]
    contenders = {
        "transformers fp32": step(theirs, lambda: {"loss": theirs(pixels, mask, labels=labels).loss}),
        "foveal fp32": step(ours, lambda: ours(raw, targets)),
    }
    if fast_bf16(CPU):
        contenders["foveal bf16 (the default here)"] = step(ours, lambda: ours(raw, targets), True)
    race(f"training step, {args.batch} x {height} x {width}, dropout {args.dropout}", contenders, rounds=args.rounds)
    for label, fn in contenders.items():
        with OpCount() as ops:
            fn()
        print(f"{label:36s} {ops.total:6d} operations, host syncs: {dict(ops.syncs)}")


def to_cxcywh(boxes: Tensor) -> Tensor:
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def inference(args: Any) -> None:
    theirs, plain = pair(args.short, args.short * 5 // 3, auxiliary=False)
    theirs.eval()
    ours = ready(plain, "cpu", "32")
    processor = DetrImageProcessor(size={"shortest_edge": args.short, "longest_edge": args.short * 5 // 3})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "image.jpg")
        pixels = random_images(1, 480, 640)[0].permute(1, 2, 0).mul(255).byte().numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=92)

        def reference() -> object:
            with torch.inference_mode():
                image = Image.open(file).convert("RGB")
                answer = theirs(**processor(image, return_tensors="pt"))
                return processor.post_process_object_detection(answer, 0.0, [image.size[::-1]])

        def reference_network() -> object:
            with torch.inference_mode():
                return theirs(prepared.pixels, mask)

        prepared = ours.prepare([load_image(file)])
        mask = torch.ones(1, *prepared.pixels.shape[2:])
        with torch.inference_mode():
            difference = (theirs(prepared.pixels, mask).pred_boxes - ours.outputs(prepared).layers[-1].deltas).abs()
        print(f"boxes of the same pixels differ by {float(difference.max()):.1e} at most (foveal folds norms)")
        race(
            f"the network alone, {tuple(prepared.pixels.shape[2:])}",
            {"transformers fp32": reference_network, "foveal fp32": no_grad(lambda: ours.outputs(prepared))},
            rounds=args.rounds,
        )
        contenders = {"transformers fp32": reference, "foveal fp32": lambda: ours.predict_arrays([load_image(file)])}
        if fast_bf16(CPU):
            quick = ready(plain, "cpu", "bf16")
            contenders["foveal bf16 (the default here)"] = lambda: quick.predict_arrays([load_image(file)])
        race(f"from a file to boxes, short side {args.short}", contenders, rounds=args.rounds)
        assert np.isfinite(ours.predict_arrays([load_image(file)])[0].boxes.numpy()).all()


def no_grad(fn: Any) -> Any:
    def run() -> object:
        with torch.inference_mode():
            return fn()

    return run


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--size", type=int, default=416, help="long side of the training images")
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--objects", type=int, default=8)
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--short", type=int, default=800, help="short side of inference")
    args = setup(p)
    for part in (training, inference):
        if args.only in part.__name__:
            part(args)


if __name__ == "__main__":
    main()
