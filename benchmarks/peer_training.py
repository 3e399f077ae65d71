"""Trains torchvision's own RetinaNet or Faster R-CNN class the usual way, for comparison with foveal's.

    python benchmarks/peer_training.py retinanet --data DATA/bccd --split train=trainval,val=test \
        --weights DATA/weights/torch/squeezenet1_0-deepcompression.pth --minutes 20 --seed 0 --out runs/peer

The same backbone, images, batch, optimizer, schedule, image size and widths as foveal's ``*_mini`` preset; the model,
its losses and its sampling are torchvision's, in fp32 as torchvision trains on a CPU. Evaluated with the last weights
by foveal's evaluator (which agrees with pycocotools to 1e-12).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.models import squeezenet1_0
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from foveal.data.images.load import load_image
from foveal.data.open import split_pair
from foveal.evaluation import DetectionTable, GroundTruth, score_detections
from foveal.types import Detections


def backbone(weights: str, returned: dict[str, str], channels: list[int], width: int, extra: nn.Module) -> nn.Module:
    net = squeezenet1_0()
    net.load_state_dict(torch.load(weights, weights_only=True))
    body = net.features
    for m in body:
        if isinstance(m, nn.MaxPool2d):
            m.ceil_mode = True
    return BackboneWithFPN(body, returned, channels, width, extra)


def build(name: str, weights: str, classes: int, short: int, long: int, width: int) -> nn.Module:
    ratios = (0.5, 1.0, 2.0)
    if name == "retinanet":
        body = backbone(weights, {"10": "0", "12": "1"}, [512, 512], width, LastLevelP6P7(width, width))
        sizes = tuple(tuple(s * 2 ** (o / 3) for o in range(3)) for s in (32, 64, 128, 256))
        anchors = AnchorGenerator(sizes, (ratios,) * len(sizes))
        head = RetinaNetHead(width, 9, classes)
        return RetinaNet(
            body, classes, min_size=short, max_size=long, anchor_generator=anchors, head=head, score_thresh=0.01
        )
    body = backbone(weights, {"10": "0", "12": "1"}, [512, 512], width, LastLevelMaxPool())
    anchors = AnchorGenerator(tuple((s, s * 2**0.5) for s in (32, 64, 128)), (ratios,) * 3)
    return FasterRCNN(
        body,
        min_size=short,
        max_size=long,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 7, 2),
        box_head=TwoMLPHead(width * 49, 256),
        box_predictor=FastRCNNPredictor(256, classes + 1),
        box_batch_size_per_image=128,
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=300,
        box_score_thresh=0.01,
    )


def batches(n: int, size: int, seed: int):
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(n)
        for i in range(0, n - size + 1, size):
            yield order[i : i + size], rng


def sample(record, flip: bool, shift: int):
    image = torch.from_numpy(load_image(record.path).copy()).permute(2, 0, 1).float() / 255
    keep = ~(record.ignore | record.crowd)
    boxes = torch.from_numpy(record.boxes[keep]).float()
    if flip:
        image = image.flip(-1)
        boxes = torch.stack([image.shape[-1] - boxes[:, 2], boxes[:, 1], image.shape[-1] - boxes[:, 0], boxes[:, 3]], 1)
    return image, {"boxes": boxes, "labels": torch.from_numpy(record.labels[keep]) + shift}


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model", choices=["retinanet", "faster_rcnn"])
    ap.add_argument("--data", required=True)
    ap.add_argument("--split", default="train=train,val=val")
    ap.add_argument("--classes")
    ap.add_argument("--weights", required=True)
    ap.add_argument("--minutes", type=float, default=10)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--batch", type=int, default=4)
    ap.add_argument("--lr", type=float, default=0.0)
    ap.add_argument("--solver", choices=["sgd", "adamw"], default="adamw")
    ap.add_argument("--short", type=int, default=320)
    ap.add_argument("--long", type=int, default=533)
    ap.add_argument("--width", type=int, default=96)
    ap.add_argument("--protocol", default="voc10")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--out", required=True)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    began = time.perf_counter()
    splits = dict(p.split("=") for p in a.split.split(","))
    train, val, _ = split_pair(a.data, split_map=splits, classes=a.classes.split(",") if a.classes else None)
    shift = int(a.model == "faster_rcnn")  # torchvision's Faster R-CNN keeps label 0 for background
    model = build(a.model, a.weights, len(train.classes), a.short, a.long, a.width).train()
    params = [p for p in model.parameters() if p.requires_grad]
    lr = a.lr or (3e-4 if a.solver == "adamw" else 0.01)
    solver = (
        torch.optim.AdamW(params, lr, weight_decay=1e-4)
        if a.solver == "adamw"
        else torch.optim.SGD(params, lr, momentum=0.9, weight_decay=1e-4)
    )
    budget = a.minutes * 60
    step = 0
    for index, rng in batches(len(train), a.batch, a.seed):
        done = (time.perf_counter() - began) / budget
        if done >= 1:
            break
        now = lr * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * done))
        for group in solver.param_groups:
            group["lr"] = now
        pairs = [sample(train.records[i], bool(rng.random() < 0.5), shift) for i in index]
        losses = model([p[0] for p in pairs], [p[1] for p in pairs])
        loss = sum(losses.values())
        solver.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 10.0)
        solver.step()
        step += 1
        if step % 50 == 0:
            print(f"step {step} {done:.0%} loss {float(loss):.3f}", flush=True)
    trained = time.perf_counter() - began
    model.eval()
    found = []
    with torch.inference_mode():
        for record in val.records:
            image, _ = sample(record, False, shift)
            out = model([image])[0]
            found.append(Detections(out["boxes"], out["scores"], out["labels"] - shift, train.classes))
    scores = score_detections(GroundTruth.of(val), DetectionTable.of(found), a.protocol).to_dict()
    Path(a.out).mkdir(parents=True, exist_ok=True)
    scores |= {"model": a.model, "seed": a.seed, "steps": step, "seconds": trained, "images": len(train)}
    scores["epochs"] = step * a.batch / len(train)
    Path(a.out, "results.json").write_text(json.dumps(scores, indent=1))
    print(json.dumps({k: v for k, v in scores.items() if k != "per_class"}))


if __name__ == "__main__":
    main()
