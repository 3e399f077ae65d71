"""The history ladder on one dataset: R-CNN, SPP-Net, Fast R-CNN, Faster R-CNN in two ways, FPN.

python benchmarks/ladder.py --data DATA/voc2012-catdogcar --classes cat,dog,car --out ladder \
    --weights DATA/weights/torch/squeezenet1_0-deepcompression.pth

All on the same ImageNet SqueezeNet, images of 320 px and, with external proposals, the same 500 of selective search
(computed once, cached). Called again, it resumes where it was interrupted; complete runs are kept.
The table goes to ladder.md; `--rungs` trains some of them, `--passes` scales the epochs of each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import foveal
from foveal.assembly.detector import Detector, Spec
from foveal.assembly.proposers import Counts
from foveal.checkpoints.folder import load_checkpoint
from foveal.data.images.load import load_image
from foveal.data.open import open_dataset
from foveal.detectors.fast_rcnn import FAST_TASK, FastRCNN
from foveal.detectors.faster_rcnn import ROI_TASK, RPN_TASK, FasterRCNN, alternating
from foveal.detectors.rcnn import BOX_RIDGE, CLASS_SVMS, FINE_TUNE, RCNN
from foveal.detectors.spp_net import FINE_TUNE_TOP, SPPNet
from foveal.external_proposals.cache import fill_proposals
from foveal.parts.backbones.torchvision import Torchvision
from foveal.parts.heads.dense import RPNHead
from foveal.parts.heads.rcnn import RCNNHead
from foveal.parts.heads.roi import RoIMLP
from foveal.parts.necks.fpn import FPN, SingleLevel
from foveal.parts.pooling.roi_align import RoIAlign, RoIPool
from foveal.parts.pooling.spp import SPP
from foveal.parts.pooling.warp import Warp
from foveal.parts.postprocess import Select
from foveal.parts.priors.anchors import Anchors, PyramidAnchors
from foveal.parts.resizing import Resize
from foveal.parts.samplers import Balanced
from foveal.parts.selective_search import SelectiveSearch
from foveal.presets.recipes import FLIP, SMALL_FIT
from foveal.recipe import AdamW, Cosine, Recipe, Ridge, WindowSampling

SOURCE = SelectiveSearch(top=500)
IMAGE = Resize(320, 533)
FOLDER = Path(foveal.__file__).parent


@dataclass(frozen=True)
class Rung:
    name: str
    spec: Spec
    files: tuple[str, ...]  # of the package: those that this detector does not share with the next one


def rungs(weights: str, passes: float) -> dict[str, Rung]:
    """By name, in the order of history."""

    def epochs(count: int) -> int:
        return max(1, round(count * passes))

    body = Torchvision("squeezenet1_0", weights=weights)
    windows = Recipe(
        epochs=epochs(4),
        batch=64,
        lr=3e-4,
        solver=AdamW(1e-4),
        schedule=Cosine(),
        clip=10.0,
        val_every=1000,
        augment=FLIP,
    )
    images = replace(SMALL_FIT, batch=2, lr=2.5e-4, epochs=epochs(8), val_every=1000)
    svms, boxes = CLASS_SVMS, replace(BOX_RIDGE, solver=Ridge(alpha=1000.0, iou=0.5))
    rcnn = RCNN(
        proposals=SOURCE,
        backbone=body,
        pool=Warp(96, 7),
        cells=3,
        head=RCNNHead(256, depth=1, dropout=0.0),
        fit=replace(windows, stages=(replace(FINE_TUNE, draw=WindowSampling(per_image=48)), svms, boxes)),
    )
    spp = SPPNet(
        input=IMAGE,
        proposals=SOURCE,
        backbone=body,
        levels=(4,),
        pool=SPP((3, 2, 1)),
        head=RCNNHead(256, depth=1, dropout=0.0),
        fit=replace(windows, epochs=epochs(8), stages=(FINE_TUNE_TOP, svms, boxes)),
    )
    few = Select(score=0.01, per_level=None)
    fast = FastRCNN(
        input=IMAGE,
        proposals=SOURCE,
        backbone=body,
        levels=(4,),
        neck=SingleLevel(),
        pool=RoIPool(7),
        roi_head=RoIMLP(256),
        roi=replace(FAST_TASK, select=few, suppress=ROI_TASK.suppress),
        fit=images,
    )
    faster = FasterRCNN(
        input=IMAGE,
        backbone=body,
        levels=(4,),
        neck=SingleLevel(),
        anchors=Anchors(((32, 64, 128, 256),)),
        rpn_head=RPNHead(256),
        rpn=RPN_TASK,
        pool=RoIAlign(7),
        roi_head=RoIMLP(256),
        roi=replace(ROI_TASK, sampler=Balanced(128, 0.25), select=replace(ROI_TASK.select, score=0.01)),
        train_proposals=Counts(1000, 500),
        test_proposals=Counts(1000, 300),
        fit=images,
    )
    four = tuple(
        replace(stage, epochs=epochs(n)) for stage, n in zip(alternating("backbone"), (4, 6, 2, 3), strict=True)
    )
    fpn = replace(
        faster,
        levels=(3, 4, 5),
        neck=FPN(96, extra="pool", norm="group"),
        anchors=PyramidAnchors(scale=4.0, octaves=2),
        rpn_head=RPNHead(),
        train_proposals=Counts(500, 500),
        test_proposals=Counts(300, 300),
    )
    found = (
        Rung("rcnn", rcnn, ("detectors/rcnn.py", "parts/pooling/warp.py", "data/loader/window_batches.py")),
        Rung(
            "spp_net",
            spp,
            (
                "detectors/spp_net.py",
                "parts/pooling/spp.py",
                "data/loader/stored_maps.py",
                "training/stages/cache_maps.py",
            ),
        ),
        Rung("fast_rcnn", fast, ("detectors/fast_rcnn.py",)),
        Rung(
            "faster_rcnn_four_steps", replace(faster, fit=replace(images, stages=four)), ("detectors/faster_rcnn.py",)
        ),
        Rung("faster_rcnn", faster, ("detectors/faster_rcnn.py",)),
        Rung("fpn", fpn, ("detectors/faster_rcnn.py", "parts/necks/fpn.py")),
    )
    return {rung.name: rung for rung in found}


def trained(rung: Rung, args: argparse.Namespace) -> Path:
    """The run of a rung, resumed where it exists."""
    out = args.out / rung.name
    foveal.train(
        rung.spec,
        data=args.data,
        split={"train": "train", "val": "val"},
        classes=args.classes.split(","),
        out=out,
        seed=args.seed,
        workers=0,
        limit=args.limit,
        resume=out.exists(),
    )
    return out


def lines(files: tuple[str, ...]) -> int:
    """Lines of code: neither empty nor a comment."""
    text = [line.strip() for file in files for line in (FOLDER / file).read_text().splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in text)


def milliseconds(detectors: dict[str, Detector], specs: dict[str, Rung], args: argparse.Namespace) -> dict[str, float]:
    """From pixels to boxes of an image, without external proposals: medians over images, the detectors in turn."""
    dataset = open_dataset(args.data, split="val", classes=args.classes.split(","))
    dataset = replace(dataset, records=dataset.records[:: max(1, len(dataset) // args.timed)][: args.timed])
    records = fill_proposals(dataset, SOURCE).records
    spent: dict[str, list[float]] = {name: [] for name in detectors}
    for record in records:
        image = load_image(record.path)
        for name, detector in detectors.items():
            given = [np.asarray(record.proposals)[:500]] if specs[name].spec.source else None
            start = time.perf_counter()
            detector.predict_arrays([image], proposals=given)
            spent[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in spent.items()}


def scores(out: Path) -> list[float]:
    """AP50 after each kind of stage."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row["AP50"] for row in rows if row["split"] == "val"]


def fall(out: Path) -> tuple[float, float]:
    """The loss in the first and in the last lines of the first stage."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    first = next(k for k, row in enumerate(rows) if row["split"] == "val")
    losses = [row["loss"] for row in rows[:first]]
    return losses[0], losses[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", required=True, help="SqueezeNet 1.0's ImageNet weights")
    parser.add_argument("--classes", default="cat,dog,car")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rungs", help="some of them, by name")
    parser.add_argument("--passes", type=float, default=1.0, help="times the epochs of every rung")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use only the first N images; default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--timed", type=int, default=12, help="images that the milliseconds are measured on")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    every = rungs(args.weights, args.passes)
    chosen = {name: every[name] for name in (args.rungs.split(",") if args.rungs else every)}
    runs = {name: trained(rung, args) for name, rung in chosen.items()}
    detectors = {name: foveal.load(run) for name, run in runs.items()}
    spent = milliseconds(detectors, chosen, args)
    table = [
        "| rung | AP50 | AP50 after each stage | loss of the first stage | minutes | ms an image | lines of code |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        found, (first, last) = scores(run), fall(run)
        minutes = load_checkpoint(run / "checkpoints" / "last").meta["state"]["elapsed"] / 60
        table.append(
            f"| {name} | {found[-1]:.3f} | {', '.join(f'{s:.3f}' for s in found)} | {first:.2f} to {last:.2f} | "
            f"{minutes:.1f} | {spent[name]:.0f} | {lines(chosen[name].files)} |"
        )
    (args.out / "ladder.md").write_text("\n".join(table) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    main()
