"""A detector of a thousand weights and a dataset of a dozen images, for tests of the loop. Also a program: ``main``.

The detector has all that the loop depends on: convolutions, batch norm, dropout, noise from ``rng``, weights that get a
zero gradient where there is no box. Its losses are means over images, so that halves of a batch average to the whole.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from foveal.assembly.detector import Spec
from foveal.parts.resizing import Stretch
from foveal.recipe import SGD, Cosine, Recipe
from foveal.types import Detections, Images, Targets

FIT = Recipe(epochs=3, batch=4, lr=0.05, solver=SGD(), schedule=Cosine(), warmup_steps=2, ema=0.9, clip=10.0)


@dataclass(frozen=True)
class TinySpec(Spec):
    """``poison``: the iteration (from 0) whose loss becomes NaN."""

    fit: Recipe = FIT
    input: Stretch = Stretch(32, 32)
    dropout: float = 0.1
    norm: bool = True
    noise: float = 0.1  # on the logits, in training, drawn from ``rng``
    poison: int | None = None

    def build(self, classes: Any) -> Any:
        return Tiny(self, tuple(classes))


class Tiny(nn.Module):
    class_agnostic = False
    has_masks = False

    def __init__(self, spec: TinySpec, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.spec, self.classes, self.trained_on = spec, classes, ""
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8) if spec.norm else nn.Identity(), nn.ReLU()
        )
        self.dropout = nn.Dropout(spec.dropout)
        self.cls = nn.Linear(8, len(classes))
        self.box = nn.Linear(8, 4)

    def prepare(self, arrays: Any, proposals: Any = None) -> Images:
        return self.spec.input.batch(list(arrays)).to(self.box.weight.device)

    def forward(self, images: Images, targets: Targets | None = None, *, detect: bool = False, rng: Any = None) -> Any:
        if images.pixels.dtype == torch.uint8:
            images = self.spec.input.normalize(images)
        features = self.dropout(self.backbone(images.pixels).mean((2, 3)))
        logits, boxes = self.cls(features).float(), self.box(features).float().sigmoid() * 32
        losses: dict[str, Tensor] = {}
        if targets is not None:
            hot = nn.functional.one_hot(targets.labels, logits.shape[1]) * targets.valid[..., None]
            noise = torch.rand(logits.shape, generator=rng, device=logits.device) if self.training else 0.0
            wanted = hot.amax(1).float()
            losses["cls"] = nn.functional.binary_cross_entropy_with_logits(logits + self.spec.noise * noise, wanted)
            rows = (boxes[:, None] - targets.boxes).abs().mean(-1) * targets.valid
            losses["box"] = rows.sum(1).mean() / 32
            if self.training and self.spec.poison is not None and images.seen == self.spec.poison * self.spec.fit.batch:
                losses["cls"] = losses["cls"] * torch.nan
            if not detect:
                return losses
        found = images.to_original(boxes[:, None])
        scores, labels = logits.sigmoid().max(1)
        answer = [Detections(b, s[None], k[None], self.classes) for b, s, k in zip(found, scores, labels, strict=True)]
        return answer if targets is None else (losses, answer)


def make_data(folder: Path, train: int = 12, val: int = 4, size: int = 40, empty_from: int | None = None) -> Path:
    """COCO datasets ``train.json`` and ``val.json``: one colored square an image, none from image ``empty_from`` on."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in (("train", train), ("val", val)):
        images, objects = [], []
        for i in range(count):
            pixels = rng.integers(0, 60, (size, size, 3), dtype=np.uint8)
            images.append({"id": i + 1, "file_name": f"{name}-{i}.jpg", "width": size, "height": size})
            if empty_from is None or i < empty_from:
                x, y, side = (int(v) for v in rng.integers(4, 16, 3))
                pixels[y : y + side, x : x + side, i % 2] = 250
                objects.append(
                    {
                        "id": len(objects) + 1,
                        "image_id": i + 1,
                        "category_id": i % 2 + 1,
                        "bbox": [x, y, side, side],
                        "area": side * side,
                        "iscrowd": 0,
                    }
                )
            Image.fromarray(pixels).save(folder / f"{name}-{i}.jpg")
        categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
        text = json.dumps({"images": images, "annotations": objects, "categories": categories})
        (folder / f"{name}.json").write_text(text)
    return folder


def train_tiny(data: Path, out: Path | None, spec: TinySpec | None = None, **options: Any) -> Any:
    """A training run of the tiny detector, without console output, on :func:`make_data`."""
    from foveal.training.run import train

    quiet = {"progress": False, "tensorboard": False, "device": "cpu", "precision": "32", "workers": 0}
    called = {"data": data / "train.json", "val": data / "val.json", "out": out, **quiet, **options}
    return train(spec or TinySpec(), **called)  # type: ignore[arg-type]


def main(arguments: dict[str, Any]) -> None:
    """Trains with the given options; ``gradients`` is the file for the gradients of the first iteration."""
    if arguments.pop("own_group", False):
        os.setpgrp()  # so that a kill of the process group reaches its workers too
    # A child of a forkserver inherits that way of starting workers, and they would outlive a kill of this process.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    spec = replace(TinySpec(), fit=replace(FIT, **arguments.pop("fit", {})), **arguments.pop("spec", {}))
    gradients = arguments.pop("gradients", None)
    if gradients:
        _record_gradients(Path(gradients))
    data, out = Path(arguments.pop("data")), Path(arguments.pop("out"))
    train_tiny(data, out, spec, **arguments)


def _record_gradients(path: Path) -> None:
    """Saves the first iteration's gradients, as the optimizer sees them."""
    from foveal.training.loop.update import Updater

    original = Updater._update

    def recording(self: Updater, loss: Tensor) -> Tensor:
        rank = self.fabric.global_rank
        target = path.with_name(f"{path.name}-{rank}.pt")
        if not target.exists():
            torch.save({n: p.grad.clone() for n, p in self.model.module.named_parameters()}, target)
        return original(self, loss)

    Updater._update = recording  # type: ignore[method-assign]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
