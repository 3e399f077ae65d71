"""Training with the maps of frozen layers stored, against the direct way: RetinaNet on EfficientNet-Lite0 at 320 px.

    python benchmarks/frozen_maps.py --frozen 2 3

Both read the same generated photos of 448 x 320 with the same loader settings and take one iteration of AdamW; the
second has passed over all views before the clock starts. Times are of the process' CPU, so that other processes on the
machine disturb little. Then the largest difference of a loss, relative to the direct way's, over the iterations; and
the bytes of a view.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from common import parser, setup

from foveal import presets
from foveal.assembly.detector import Detector, network_pixels
from foveal.data.augment.transforms import HorizontalFlip
from foveal.data.loader.batches import TrainBatches
from foveal.data.loader.loader import Loader
from foveal.data.loader.map_cache import ViewStore, open_folder_of
from foveal.data.loader.view_batches import ViewBatches
from foveal.data.open import open_dataset
from foveal.data.records.dataset import Dataset
from foveal.data.synthetic.shapes import make_shapes
from foveal.parts.backbones.frozen_layers import find_frozen_layers
from foveal.parts.backbones.timm import Timm
from foveal.runtime.precision import fast_bf16
from foveal.training.loop.update import to_device
from foveal.training.precision_trial import prepare_for_training
from foveal.training.stages.frozen_maps import AboveFrozenLayers

CPU = torch.device("cpu")
FLIP = (HorizontalFlip(),)


def built(name: str, frozen: int, precision: Any, classes: tuple[str, ...]) -> Detector:
    torch.manual_seed(0)
    detector = replace(presets.retinanet_mini, backbone=Timm(name, frozen_stages=frozen)).build(classes).train()
    prepare_for_training(detector, CPU, precision)
    return detector


def iteration(detector: Detector, learner: Callable[..., Any], loader: Loader, autocast: Any) -> Callable[[], float]:
    """A function that takes the next batch and one iteration, and returns the loss."""
    parameters = [p for p in detector.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    batches = (batch for epoch in range(10**6) for batch in loader.epoch(epoch))
    rng = torch.Generator()

    def step() -> float:
        batch = next(batches)
        images, targets = to_device(batch.images, batch.targets, CPU, 0)
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            losses = learner(images, targets, rng=rng.manual_seed(0))
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        optimizer.step()
        return float(total.detach())

    return step


def stored(
    args: Any, frozen: int, precision: Any, dataset: Dataset, folder: Path, autocast: Any
) -> tuple[Callable[[], float], float]:
    """The iterations with stored maps, after a pass over all views, and the bytes of a view."""
    detector = built(args.backbone, frozen, precision, dataset.classes)
    layers = find_frozen_layers(detector.get_submodule("backbone"))
    assert layers is not None
    loader, store = make_loader(args, dataset), ViewStore(folder, 10**10)
    open_folder_of(folder, f"{frozen} {precision}")

    def compute(images: Any) -> Any:
        with torch.no_grad(), autocast():
            return layers(network_pixels(detector, detector.normalize(images)))

    loader.builder = ViewBatches(cast(TrainBatches, loader.builder), store, compute, half=True)
    for epoch in range(8):  # by then nearly every image has been seen both ways
        for _ in loader.epoch(epoch):
            pass
    views = len(list(folder.glob("*.safetensors")))
    return iteration(detector, AboveFrozenLayers(detector, layers), loader, autocast), store.size / views


def make_loader(args: Any, dataset: Dataset) -> Loader:
    return Loader(dataset, presets.retinanet_mini.input, FLIP, args.batch, 0)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--backbone", default="tf_efficientnet_lite0", help="timm's name")
    p.add_argument("--frozen", type=int, nargs="+", default=[2, 3], help="frozen stages, of three")
    p.add_argument("--batch", type=int, default=4)
    p.add_argument("--images", type=int, default=8)
    p.add_argument("--width", type=int, default=448)
    p.add_argument("--height", type=int, default=320)
    args = setup(p)
    with tempfile.TemporaryDirectory() as temporary:
        make_shapes(Path(temporary) / "set", splits={"train": args.images}, size=(args.width, args.height), seed=0)
        dataset = open_dataset(Path(temporary) / "set", split="train")
        for precision in ("32", "bf16") if fast_bf16(CPU) else ("32",):
            for frozen in args.frozen:
                compare(args, frozen, precision, dataset, Path(temporary) / "maps")


def compare(args: Any, frozen: int, precision: Any, dataset: Dataset, folder: Path) -> None:
    """Times both ways in turn and prints a line."""

    def autocast() -> Any:
        return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()

    whole = built(args.backbone, frozen, precision, dataset.classes)
    direct = iteration(whole, whole, make_loader(args, dataset), autocast)
    fast, size = stored(args, frozen, precision, dataset, folder, autocast)
    seconds: dict[str, list[float]] = {"direct": [], "stored": []}
    largest = 0.0
    for k in range(args.rounds + 1):
        losses = []
        for name, step in (("direct", direct), ("stored", fast)):
            start = time.process_time()
            losses.append(step())
            if k:  # the first iteration pays for lazy set-up
                seconds[name].append(time.process_time() - start)
        largest = max(largest, abs(losses[1] / losses[0] - 1))
    one, two = (statistics.median(seconds[name]) for name in ("direct", "stored"))
    print(
        f"{args.backbone}, {frozen} stages frozen, precision {precision}: direct {args.batch / one:.2f}, stored "
        f"{args.batch / two:.2f} images/s ({one / two:.2f}x); loss within {largest:.1e}; {size / 1e3:.0f} kB a view",
        flush=True,
    )


if __name__ == "__main__":
    main()
