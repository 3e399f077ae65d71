"""Golden runs: one tiny run of every family, with what it answers, as the code of the day wrote them.

    python -m tests.golden.make [NAME ...]

Each is a run folder as ``foveal train`` leaves it, with ``expected.safetensors`` beside it. ``tests/test_golden.py``
reads them with the code of its own day: what was written once has to be read, and to answer the same, for ever. A run
is made again only where an answer was wrong; a new family is added by making it alone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent
CLASSES = 6  # of the generated shapes
SIDE = 64  # pixels of a training image
BEST = 20  # detections that are kept: further down the scores lie too near to each other

_BODY = "backbone=SmallResNet((8, 8, 8, 8))"
_INPUT = (f"input.short={SIDE}", "input.long=107")
_FPN = ("neck.channels=8",)
_ANCHORS = ("anchors.octaves=1",)
_WINDOWS = "proposals=SlidingWindows(top=40, sizes=(0.7, 0.4), stride=0.5)"
_REGION = ("roi.sampler=Balanced(16, 0.25)", "pool.size=3", "roi_head.width=16", "roi.select.score=0.0")
_RPN = (*_INPUT, _BODY, *_FPN, *_ANCHORS)
_COUNTS = ("train_proposals=Counts(40, 40)", "test_proposals=Counts(30, 30)")
_FASTER = (*_RPN, *_REGION, *_COUNTS)
_YOLO = ("input.width=64", "input.height=64", "task.select.score=0.0")
_TWO_TAPS = ("head.width=32", "roi.select.score=0.0", "fit.stages.2.solver=Ridge(alpha=10.0, iou=0.3)")
_SSD = (
    "input.width=96",
    "input.height=96",
    _BODY,
    "levels=(4, 5)",
    "neck.maps=(Extra(4, 8),)",
    "task.select.score=0.0",
    "fit.solver=SGD()",
)
_CFG = (
    "[net]\nwidth=64\nheight=64\n"
    + "[convolutional]\nbatch_normalize=1\nfilters=16\nsize=3\nstride=2\npad=1\nactivation=leaky\n" * 3
    + "[convolutional]\nfilters=22\nsize=1\nactivation=linear\n"
    "[yolo]\nmask=0,1\nanchors=12,16, 24,20\nclasses=6\nnum=2\nignore_thresh=.6\n"
)

# preset, and what makes it tiny
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "rcnn": ("rcnn_mini", (_WINDOWS, _BODY, "pool=Warp(32, 2, rows=16)", "cells=1", *_TWO_TAPS)),
    "spp_net": ("spp_net_mini", (_WINDOWS, _BODY, *_INPUT, "pool=SPP((2, 1))", *_TWO_TAPS)),
    "fast_rcnn": ("fast_rcnn_mini", (*_INPUT, _WINDOWS, _BODY, *_FPN, *_REGION)),
    "faster_rcnn": ("faster_rcnn_mini", _FASTER),
    "faster_rcnn_alternating": ("faster_rcnn_mini_alternating", _FASTER),
    "rpn": ("rpn_mini", (*_RPN, "task.select.score=0.0", "task.suppress.top=30")),
    "mask_rcnn": (
        "mask_rcnn_mini",
        (*_FASTER, "roi.suppress.top=20", "mask=MaskHead(RoIAlign(6, ratio=2), convs=1, channels=8, rows=8)"),
    ),
    "retinanet": ("retinanet_mini", (*_INPUT, _BODY, *_FPN, *_ANCHORS, "head.depth=1", "task.select.score=0.0")),
    "fcos": ("fcos_mini", (*_INPUT, _BODY, *_FPN, "head=PointTower(depth=1, norm=None)", "task.select.score=0.0")),
    "ssd": ("ssd_mini", _SSD),
    "dssd": (
        "dssd_mini",
        (*_SSD, "neck.deconv=Deconvolution(8)", "head=PerLevel(module=Prediction(4, 4))"),
    ),
    "yolo_v1": ("yolo_v1_mini", (*_YOLO, "backbone=SmallResNet((8, 8, 8))", "head=CellHead((16,))")),
    "yolo_v2": (
        "yolo_v2_mini",
        (*_YOLO, _BODY, "neck=Passthrough(narrow=8, channels=16, depth=1)", "head=CellHead((16,), prior=0.01)"),
    ),
    "yolo_v3": ("yolo_v3_mini", (*_YOLO, _BODY, "neck=Upsampling((16, 16), (1, 1))", "head=CellHead((16, 16))")),
    "detr": (
        "detr_mini",
        (
            *_INPUT,
            "backbone=SmallResNet((8, 8, 8))",
            "head=Transformer(queries=12, width=12, heads=2, encoder=1, decoder=2, hidden=16, anchored=True)",
            "head.dropout=0.0",
        ),
    ),
    "darknet": ("CFG", ("task.select.score=0.0",)),
}
RESUMABLE = "retinanet"  # stopped after the first of its two epochs
_FIT = ("fit.batch=2", "fit.lr=0.01", "fit.warmup_steps=0", "fit.augment=()", "fit.val_every=1", "fit.ema=None")


def spec_of(name: str) -> Any:
    """The tiny spec of a family."""
    from foveal import presets
    from foveal.config.overrides import override
    from foveal.detectors.darknet import DarknetDetector

    preset, overrides = FAMILIES[name]
    spec = DarknetDetector.from_cfg(_CFG) if preset == "CFG" else presets.get(preset)
    fit = (*_FIT, f"fit.epochs={2 if name == RESUMABLE else 1}")
    return override(spec, [*overrides, *fit])


def image(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The picture that is asked about: (60, 80, 3) uint8, patches of 10 pixels."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return patches.repeat(10, 0).repeat(10, 1)


def answers(detector: Any, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> dict[str, Tensor]:
    """What a detector says of a picture: its raw predictions, and the detections made of them."""
    detector.eval()
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        images = detector.normalize(detector.prepare([pixels]))
        outputs = detector.outputs(images)
        for i, layer in enumerate(outputs.layers):
            raw = {"logits": layer.logits, "deltas": layer.deltas, "quality": layer.quality}
            found |= {f"raw.{i}.{kind}": _some(rows) for kind, rows in raw.items() if rows is not None}
        small = detector.detections(outputs, images).masks
        if small is not None:  # probabilities, before they are pasted
            found["mask_probabilities"] = small
    detections = detector.predict_arrays([pixels])[0][:BEST]
    found |= {"boxes": detections.boxes, "scores": detections.scores, "labels": detections.labels}
    if detections.masks is not None:
        found["masks"] = torch.as_tensor(np.packbits(np.asarray(detections.masks.dense(), dtype=bool), axis=-1))
    return {name: value.detach().cpu().contiguous() for name, value in found.items()}


def _some(rows: Tensor) -> Tensor:
    """About 200 of the priors of (1, A, ...), from all over."""
    return rows[:, :: max(1, rows.shape[1] // 200)]


def make(name: str, data: Path) -> Path:
    """The run of a family in its place, and its answers beside."""
    from foveal.checkpoints.load import load
    from foveal.training.run import train

    out = HERE / name
    shutil.rmtree(out, ignore_errors=True)
    train(
        spec_of(name),
        data=data,
        out=out,
        seed=1,
        device="cpu",
        precision="32",
        workers=0,
        progress=False,
        tensorboard=False,
    )
    if name == RESUMABLE:
        _take_back(out)
    _tidy(out, data)
    detector = load(out, device="cpu", precision="32")
    seed = next(seed for seed in range(100) if _is_clear(detector, seed))
    save_file(answers(detector, image(seed)), out / "expected.safetensors", {"seed": str(seed)})
    (out / "expected.safetensors").chmod(0o644)
    return out


def _is_clear(detector: Any, seed: int) -> bool:
    """Whether no two detections of the picture are so near that another processor's rounding exchanges them."""
    own = {name: value.clone() for name, value in detector.state_dict().items()}
    expected, noise = answers(detector, image(seed)), torch.Generator().manual_seed(0)
    clear = len(expected["boxes"]) > 0
    for _ in range(5):
        moved = {
            k: v * (1 + 1e-6 * torch.randn(v.shape, generator=noise)) if v.is_floating_point() else v
            for k, v in own.items()
        }
        detector.load_state_dict(moved)
        found = answers(detector, image(seed))
        clear &= torch.equal(found["labels"], expected["labels"])
        clear &= len(found["boxes"]) == len(expected["boxes"])
        clear = clear and bool((found["boxes"] - expected["boxes"]).abs().max() < 0.01)
    detector.load_state_dict(own)
    return clear


def _take_back(out: Path) -> None:
    """As if it had been stopped after its first epoch: the last checkpoint goes, and the links to it."""
    from foveal.checkpoints.folder import point, steps

    folder = out / "checkpoints"
    first, *later = steps(folder)
    for step in later:
        shutil.rmtree(folder / f"step-{step}")
    for link in ("last", "best"):
        point(folder, link, first)
    (out / "results.json").unlink()


def _tidy(out: Path, data: Path) -> None:
    """Takes this machine out of ``run.json``, and all checkpoints but the best."""
    story = json.loads((out / "run.json").read_text())
    story["arguments"] |= {"data": "data/shapes", "out": f"runs/{out.name}"}
    story["environment"] |= {"platform": "Linux", "processor": "x86_64"}
    (out / "run.json").write_text(json.dumps(story, indent=1) + "\n")
    folder = out / "checkpoints"
    wanted = {(folder / link).resolve() for link in ("last", "best")}
    for step in folder.glob("step-*"):
        if step.resolve() not in wanted:
            shutil.rmtree(step)
    told = [p for p in out.rglob("*") if p.is_file() and str(data.parent).encode() in p.read_bytes()]
    assert not told, f"these name a folder of this machine: {told}"


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["FOVEAL_CACHE"] = f"{scratch}/cache"
        data = shapes(Path(scratch) / "shapes")
        for name in names or FAMILIES:
            out = make(name, data)
            size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file() and not p.is_symlink())
            print(f"{name}: {size / 1000:.0f} kB")


def shapes(folder: Path) -> Path:
    """The images that every golden run was trained on."""
    from foveal.data.synthetic.shapes import make_shapes

    return make_shapes(folder, splits={"train": 6, "val": 2}, seed=3, format="coco", size=(96, SIDE)).path


if __name__ == "__main__":
    main(sys.argv[1:])
