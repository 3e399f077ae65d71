"""Masks: AP against pycocotools, and a training step's targets against torchvision's, with the bytes each holds.

    python benchmarks/masks.py [--images 500 --objects 8 --per-image 40 --rounds 5 --only targets]

Ellipses on images of 480 x 640, two detections near each object among false alarms; pycocotools runs once.
"""

from __future__ import annotations

import contextlib
import io
import time

import numpy as np
import torch
from common import parser, race, setup
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from foveal.evaluation import DetectionTable, GroundTruth, score_detections
from foveal.evaluation.masks import MaskRuns
from foveal.masks.rle import Masks
from foveal.masks.targets import mask_targets
from foveal.types import Target, Targets

SIZE = (480, 640)
CLASSES = 10


def ellipses(box: np.ndarray, size: tuple[int, int]) -> Masks:
    """One in each box."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    center, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2
    u = (x - center[:, 0, None, None]) / half[:, 0, None, None]
    v = (y - center[:, 1, None, None]) / half[:, 1, None, None]
    return Masks.of_dense(u**2 + v**2 < 1)


def make(images: int, objects: int, per_image: int) -> tuple[GroundTruth, DetectionTable, list[Masks], list[Masks]]:
    rng = np.random.default_rng(0)

    def boxes(n: int) -> np.ndarray:
        side = np.exp(rng.normal(np.log(60), 0.9, (n, 2))).clip(6, 440)
        corner = rng.random((n, 2)) * (np.array(SIZE[::-1]) - side)
        return np.concatenate([corner, corner + side], 1)

    own, seen, found_boxes, labels, found_labels = [], [], [], [], []
    for _ in range(images):
        box, label = boxes(objects), rng.integers(0, CLASSES, objects)
        near = np.repeat(np.arange(objects), 2)[:per_image]
        hit = box[near] + rng.normal(0, 3, (len(near), 4))
        hit[:, 2:] = np.maximum(hit[:, 2:], hit[:, :2] + 2)
        more = per_image - len(near)
        found_boxes.append(np.concatenate([hit, boxes(more)]))
        labels.append(label)
        found_labels.append(np.concatenate([label[near], rng.integers(0, CLASSES, more)]))
        own.append(ellipses(box, SIZE))
        seen.append(ellipses(found_boxes[-1], SIZE))
    masks = MaskRuns.of(own)
    truth = GroundTruth.build(
        range(1, images + 1), [f"class {k}" for k in range(CLASSES)], np.repeat(np.arange(images), objects),
        np.concatenate(labels), masks.extent, area=masks.area(), sizes=[SIZE] * images, masks=masks,
    )  # fmt: skip
    found = DetectionTable.build(
        np.repeat(np.arange(images), per_image), np.concatenate(found_labels), np.concatenate(found_boxes),
        rng.random(images * per_image), masks=MaskRuns.of(seen),
    )  # fmt: skip
    return truth, found, own, seen


def pycocotools(truth: GroundTruth, found: DetectionTable, own: list[Masks], seen: list[Masks]) -> tuple[float, float]:
    """(AP, seconds of evaluation): its input is built before the timing starts."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coded = [m for masks in own for m in masks.to_coco()]
    rows = zip(truth.image.tolist(), truth.label.tolist(), truth.area.tolist(), coded, strict=True)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in truth.images],
            "categories": [{"id": k + 1, "name": n} for k, n in enumerate(truth.classes)],
            "annotations": [
                {"id": n, "image_id": i + 1, "category_id": k + 1, "area": a, "iscrowd": 0, "segmentation": m,
                 "bbox": [0, 0, 1, 1]} for n, (i, k, a, m) in enumerate(rows, 1)
            ],
        }  # fmt: skip
        coco.createIndex()
        cells = zip(found.image.tolist(), found.label.tolist(), found.score.tolist(), strict=True)
        texts = (m for masks in seen for m in masks.to_coco())
        results = [
            {"image_id": i + 1, "category_id": k + 1, "score": s, "segmentation": m}
            for (i, k, s), m in zip(cells, texts, strict=True)
        ]
        scored = COCOeval(coco, coco.loadRes(results), "segm")
        began = time.perf_counter()
        scored.evaluate()
        scored.accumulate()
        spent = time.perf_counter() - began
        scored.summarize()
    return float(scored.stats[0]), spent


def targets(rounds: int) -> None:
    """Two images of 800 x 1333 with 20 objects each, 128 RoIs per image."""
    rng, size, n, rows = np.random.default_rng(1), (800, 1333), 20, 128
    side = np.exp(rng.normal(np.log(160), 0.8, (2, n, 2))).clip(20, 780)
    corner = rng.random((2, n, 2)) * (np.array(size[::-1]) - side)
    box = np.concatenate([corner, corner + side], 2)
    masks = [ellipses(b, size) for b in box]
    boxes = [torch.from_numpy(b).float() for b in box]
    padded = Targets.pad([Target(b, torch.zeros(n).long(), masks=m) for b, m in zip(boxes, masks, strict=True)])
    gt = torch.from_numpy(rng.integers(0, n, (2, rows)))
    where = torch.stack([b[g] for b, g in zip(boxes, gt, strict=True)])
    where = (where + torch.from_numpy(rng.normal(0, 8, where.shape)).float()).clamp(min=0)
    limit = torch.tensor([1333.0, 800.0]).repeat(2)
    where = torch.minimum(where, limit)
    dense = [torch.from_numpy(m.dense()) for m in masks]
    sizes = torch.tensor([size, size])
    assert padded.masks is not None
    held = padded.masks.numel() * 4, sum(d.numel() for d in dense) * 4
    print(f"held for the targets: runs {held[0] / 2**20:.1f} MB, floats of the bitmaps {held[1] / 2**20:.1f} MB")

    def ours() -> torch.Tensor:
        return mask_targets(padded.masks, gt, where, sizes, (800, 1344), 28)

    def theirs() -> torch.Tensor:
        return torch.stack([project_masks_on_boxes(d, w, g, 28) for d, w, g in zip(dense, where, gt, strict=True)])

    assert (ours() - theirs()).abs().max() < 5e-5
    race("targets of 2 x 128 RoIs", {"torchvision": theirs, "foveal": ours}, rounds=rounds)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, default=500)
    arguments.add_argument("--objects", type=int, default=8, help="of an image")
    arguments.add_argument("--per-image", type=int, default=40, help="detections of an image")
    args = setup(arguments)
    if args.only in "targets":
        targets(args.rounds)
    if args.only in "evaluation":
        truth, found, own, seen = make(args.images, args.objects, args.per_image)
        ap, seconds = pycocotools(truth, found, own, seen)
        began = time.perf_counter()
        results = score_detections(truth, found)
        spent = time.perf_counter() - began
        assert results.masks is not None and abs(results.masks["AP"] - ap) < 1e-12
        print(f"mask AP {ap:.4f} of {len(found)} detections: pycocotools {seconds:.2f} s, "
              f"foveal (boxes too) {spent:.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
