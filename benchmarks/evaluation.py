"""COCO numbers against pycocotools, VOC AP against the classic loop; arrays in memory, no file is read.

    python benchmarks/evaluation.py [--images 5000 --objects 36000 --per-image 100 --rounds 5 --only coco]

pycocotools takes about a minute a call, so it runs once; its input is built before the timing starts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time

import numpy as np
from common import parser, race, setup
from numpy.typing import NDArray

from foveal.evaluation import DetectionTable, GroundTruth, score_detections


def make(images: int, objects: int, classes: int, per_image: int, seed: int) -> tuple[GroundTruth, DetectionTable]:
    """A set like COCO's val2017: skewed classes, log-normal sizes, 1.2 % crowds; noisy hits among false alarms."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, classes + 1) ** 0.9
    frequency /= frequency.sum()

    def boxes(n: int) -> NDArray[np.float64]:
        side = np.exp(rng.normal(np.log(60), 1.0, (n, 2))).clip(4, 440)
        corner = rng.random((n, 2)) * np.maximum([640, 480] - side, 1)
        return np.round(np.concatenate([corner, corner + side], 1), 2)

    image = np.sort(rng.integers(0, images, objects))
    label = rng.choice(classes, objects, p=frequency)
    box = boxes(objects)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) * rng.uniform(0.45, 0.9, objects)
    truth = GroundTruth.build(
        range(1, images + 1),
        [f"class {k}" for k in range(classes)],
        image,
        label,
        box,
        area=area,
        crowd=rng.random(objects) < 0.012,
        difficult=np.zeros(objects, bool),
        category_ids=range(1, classes + 1),
    )
    n = images * per_image
    found_image = np.repeat(np.arange(images), per_image)
    near = np.flatnonzero(rng.random(n) < min(1.0, 2 * objects / n))  # about two detections for every object
    source = rng.integers(0, objects, len(near))
    found_image[near] = image[source]
    found_box, found_label, score = boxes(n), rng.choice(classes, n, p=frequency), rng.beta(1, 8, n)
    side = np.tile(box[source, 2:] - box[source, :2], 2)
    found_box[near] = box[source] + rng.normal(0, 0.09, side.shape) * side
    found_box[near, 2:] = np.maximum(found_box[near, 2:], found_box[near, :2] + 0.5)
    found_label[near] = np.where(rng.random(len(near)) < 0.85, label[source], found_label[near])
    score[near] = rng.beta(3, 2, len(near))
    by_image = np.argsort(found_image, kind="stable")
    found = DetectionTable.build(found_image, found_label, found_box, np.round(score, 5))
    return truth, found[by_image]


# ------------------------------------------------------------------------------------------------- COCO
def pycocotools_numbers(truth: GroundTruth, found: DetectionTable) -> tuple[list[float], float]:
    """The twelve numbers, and the seconds of ``evaluate`` and ``accumulate``."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def annotations(part: GroundTruth | DetectionTable) -> list[dict[str, object]]:
        xywh = np.concatenate([part.box[:, :2], part.box[:, 2:] - part.box[:, :2]], 1).tolist()
        ids = zip(part.image.tolist(), part.label.tolist(), xywh, part.pixels().tolist(), strict=True)
        rows = enumerate(ids, 1)
        return [
            {"id": n, "image_id": i + 1, "category_id": k + 1, "bbox": b, "area": a, "iscrowd": 0}
            for n, (i, k, b, a) in rows
        ]

    objects, detections = annotations(truth), annotations(found)
    for row, area, crowd in zip(objects, truth.area.tolist(), truth.crowd.tolist(), strict=True):
        row["area"], row["iscrowd"] = area, int(crowd)
    for row, score in zip(detections, found.score.tolist(), strict=True):
        row["score"] = score
    head = {"images": [{"id": i} for i in truth.images], "categories": [{"id": i} for i in truth.category_ids or ()]}
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for rows in (objects, detections):
            side = COCO()
            side.dataset = head | {"annotations": rows}
            side.createIndex()
            sides.append(side)
        scorer = COCOeval(*sides, "bbox")
        start = time.perf_counter()
        scorer.evaluate()
        scorer.accumulate()
        seconds = time.perf_counter() - start
        scorer.summarize()
    return [float(v) for v in scorer.stats], seconds


def coco(args: argparse.Namespace) -> None:
    truth, found = make(args.images, args.objects, 80, args.per_image, seed=0)
    print(f"coco: {len(truth.images)} images, {len(truth)} objects, {len(found)} detections")
    ours: list[float] = []
    for _ in range(args.rounds):
        start = time.perf_counter()
        numbers = score_detections(truth, found).numbers
        ours.append(time.perf_counter() - start)
    theirs, seconds = pycocotools_numbers(truth, found)
    gap = max(abs((-1.0 if v is None else v) - t) for v, t in zip(numbers.values(), theirs, strict=True))
    mine = statistics.median(ours)
    print(f"  pycocotools evaluate + accumulate  {seconds:8.3f} s (once)")
    print(f"  foveal evaluate                    {mine:8.3f} s (median of {args.rounds}; {min(ours):.3f} at best)")
    print(f"  ratio                              {seconds / mine:8.1f} x")
    print(f"  largest difference of the twelve   {gap:8.1e}")


# -------------------------------------------------------------------------------------------------- VOC
def classic_voc07(truth: GroundTruth, found: DetectionTable) -> list[float]:
    """11-point AP of every class with a loop over its detections, as the evaluation scripts of the field have it."""
    average: list[float] = []
    for k in range(len(truth.classes)):
        rows = np.flatnonzero(truth.label == k)
        boxes = {i: truth.box[rows[truth.image[rows] == i]] for i in np.unique(truth.image[rows]).tolist()}
        used = {i: np.zeros(len(b), bool) for i, b in boxes.items()}
        mine = np.flatnonzero(found.label == k)
        mine = mine[np.argsort(-found.score[mine], kind="stable")]
        hit = np.zeros(len(mine))
        for n, d in enumerate(mine):
            i, b = int(found.image[d]), found.box[d]
            if i not in boxes:
                continue
            g = boxes[i]
            w = np.maximum(np.minimum(g[:, 2], b[2]) - np.maximum(g[:, 0], b[0]), 0)
            h = np.maximum(np.minimum(g[:, 3], b[3]) - np.maximum(g[:, 1], b[1]), 0)
            area = (g[:, 2] - g[:, 0]) * (g[:, 3] - g[:, 1])
            overlap = w * h / ((b[2] - b[0]) * (b[3] - b[1]) + area - w * h)
            best = int(overlap.argmax())
            if overlap[best] >= 0.5 and not used[i][best]:
                used[i][best] = True
                hit[n] = 1
        hits = np.cumsum(hit)
        recall, precision = hits / max(len(rows), 1), hits / np.arange(1, len(hits) + 1)
        points = [precision[recall >= t].max(initial=0.0) for t in np.arange(0.0, 1.1, 0.1)]
        average.append(sum(points) / 11)
    return average


def voc(args: argparse.Namespace) -> None:
    truth, found = make(args.images, args.objects * 5 // 12, 20, args.per_image, seed=1)
    truth = truth[~truth.crowd]
    title = f"voc07: {len(truth.images)} images, {len(truth)} objects, {len(found)} detections"
    race(
        title,
        {
            "classic loop": lambda: classic_voc07(truth, found),
            "foveal": lambda: score_detections(truth, found, "voc07"),
        },
        rounds=args.rounds,
    )
    theirs, ours = classic_voc07(truth, found), score_detections(truth, found, "voc07").per_class.values()
    gap = max(abs((o["AP"] or 0.0) - t) for o, t in zip(ours, theirs, strict=True))
    print(f"  largest difference of a class      {gap:8.1e}")


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--images", type=int, default=5000)
    p.add_argument("--objects", type=int, default=36_000)
    p.add_argument("--per-image", type=int, default=100)
    args = setup(p)
    for name, run in (("coco", coco), ("voc", voc)):
        if args.only in name:
            run(args)


if __name__ == "__main__":
    main()
