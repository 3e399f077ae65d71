"""Small R-CNN and SPP-Net detectors for tests, and a way to stop a run in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foveal.assembly.detector import Spec
from foveal.data.augment.transforms import HorizontalFlip
from foveal.detectors.rcnn import BOX_RIDGE, CLASS_SVMS, FINE_TUNE, RCNN
from foveal.detectors.spp_net import FINE_TUNE_TOP, SPPNet
from foveal.parts.backbones.small import SmallResNet
from foveal.parts.heads.rcnn import RCNNHead
from foveal.parts.pooling.spp import SPP
from foveal.parts.pooling.warp import Warp
from foveal.parts.resizing import Resize
from foveal.parts.selective_search import SlidingWindows
from foveal.recipe import Recipe, Ridge, WindowSampling
from foveal.training.run import train

SOURCE = SlidingWindows(top=40, sizes=(0.7, 0.4), stride=0.5)
SMALL_FIT = Recipe(
    epochs=2, batch=16, lr=0.02, warmup_steps=0, val_every=2, augment=(HorizontalFlip(),), precision="32"
)
RIDGE = replace(BOX_RIDGE, solver=Ridge(alpha=10.0, iou=0.3))
RCNN_SMALL = RCNN(
    proposals=SOURCE,
    backbone=SmallResNet((8, 8, 8, 8)),
    pool=Warp(32, 2, rows=16),
    cells=1,
    head=RCNNHead(16, depth=1, dropout=0.1),
    fit=replace(SMALL_FIT, stages=(replace(FINE_TUNE, draw=WindowSampling(per_image=8)), CLASS_SVMS, RIDGE)),
)
SPP_SMALL = SPPNet(
    input=Resize(72, 96, 1),
    proposals=SOURCE,
    backbone=SmallResNet((8, 8)),
    levels=(3,),
    pool=SPP((2, 1)),
    head=RCNNHead(16, depth=1, dropout=0.1),
    fit=replace(
        SMALL_FIT, stages=(replace(FINE_TUNE_TOP, draw=WindowSampling(low=0.1, per_image=8)), CLASS_SVMS, RIDGE)
    ),
)


def run(spec: Spec, data: Path, out: Path, **options: Any) -> Any:
    quiet = {"progress": False, "tensorboard": False, "device": "cpu", "workers": 0}
    return train(spec, data=data, out=out, **{**quiet, **options})  # type: ignore[arg-type]


def outcome(out: Path) -> dict[str, Any]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "model": (out / "checkpoints" / "last" / "model.safetensors").read_bytes(),
        "best": (out / "checkpoints" / "best" / "model.safetensors").read_bytes(),
        "lines": [{k: v for k, v in row.items() if "second" not in k} for row in lines],
        "results": (out / "results.json").read_text(),
    }


class Stop(Exception):
    pass


def stopped(patch: pytest.MonkeyPatch, target: Any, name: str, at: int) -> Iterator[int]:
    """Raises :class:`Stop` in the call number ``at`` of a method."""
    original, calls = getattr(target, name), iter(range(10_000))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            raise Stop
        return original(*args, **kwargs)

    patch.setattr(target, name, call)
    return calls
