"""The facts that the automatic choice rests on: counts of a training set, the machine, and two short measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec as find_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.images.load import load_image
from ..data.records.dataset import Dataset, Record, Segmentation
from ..runtime import precision as formats
from ..weights.cache import TIMM, is_cached
from ..weights.imagenet.packages import PACKAGES, imagenet_file
from .auto_decisions import FEW, DataFacts, MachineFacts
from .precision_trial import FORMATS, pass_times

if TYPE_CHECKING:
    from ..assembly.detector import Spec

NETWORK = "tf_efficientnet_lite0"  # the backbone of the *_lite presets
UNKNOWN_MEMORY = 4.0  # gigabytes that are counted on where the system does not say what is free
PROBED = 16  # images whose maps are compared with ImageNet's


def data_facts(training: Dataset) -> DataFacts:
    """Counts of a set that can be trained on (:func:`~foveal.data.open.check_trainable`)."""
    counted = [~(r.crowd | r.ignore) for r in training.records]
    pairs = list(zip(training.records, counted, strict=True))
    labels = np.concatenate([r.labels[c] for r, c in pairs])
    per_class = np.bincount(labels, minlength=len(training.classes))
    present = np.flatnonzero(per_class)  # a class without objects is a finding of its own
    rarest = int(present[per_class[present].argmin()])
    masks = [
        is_outline(mask)
        for r, c in pairs
        for mask, counts in zip(r.masks or [None] * len(r), c.tolist(), strict=True)
        if counts
    ]
    frames = [(min(r.width, r.height), max(r.width, r.height)) for r in training.records]
    return DataFacts(
        images=len(training),
        classes=len(training.classes),
        rarest=(training.classes[rarest], int(per_class[rarest])),
        rare=int((per_class[present] < FEW).sum()),
        masks=float(np.mean(masks)),
        sides=np.concatenate([r.boxes[c, 2:] - r.boxes[c, :2] for r, c in pairs]),
        frames=np.repeat(np.array(frames, np.float64), [int(c.sum()) for c in counted], 0),
        short=float(np.median([short for short, _ in frames])),
    )


def is_outline(mask: Segmentation | None) -> bool:
    """Whether a segmentation says more than a box: some tools write the corners of the box as its polygon."""
    if not isinstance(mask, list):
        return mask is not None
    if len(mask) != 1:
        return True
    x, y = set(mask[0][::2]), set(mask[0][1::2])
    return not (len(x) <= 2 and len(y) <= 2)


def missing_weights() -> str:
    """What the backbone of the *_lite presets lacks on this machine; empty: nothing.

    Raises :class:`~foveal.errors.FovealError` for a package that is installed and not the one that was tested.
    """
    package, card = PACKAGES[NETWORK], TIMM + NETWORK
    if find_module("timm") is None:
        return "timm is not installed"
    if package.installed is None and not is_cached(card):
        return f"{package.distribution} is not installed"
    imagenet_file(NETWORK, card)
    return ""


def machine_facts(
    spec: Spec, training: Dataset, device: torch.device, precision: str | None, *, pretrained: bool
) -> MachineFacts:
    """Those of the machine with a preset; takes some seconds on a CPU, for the pace and the distance from ImageNet.

    ``precision``: that of the call; None or "auto": the faster one. ``pretrained``: the backbone is the preset's, and
    its weights are there.
    """
    facts = MachineFacts(device.type, free_memory(device))
    if device.type == "cpu":
        possible = FORMATS if formats.fast_bf16(device) else FORMATS[:1]  # 32 alone
        compared = [each for each in FORMATS if each == precision] or possible
        times = pass_times(spec.with_pixels(), training.classes, compared=compared)
        facts = replace(facts, seconds=min(times.values()) / 2)  # of two images
    return replace(facts, distance=distance_from_imagenet(spec, training.records)) if pretrained else facts


def free_memory(device: torch.device) -> float:
    """Gigabytes; on a CPU with what the system's cache of files would give back."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] / 1e9)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        return int(rows["MemAvailable"].split()[0]) * 1024 / 1e9
    except (OSError, KeyError, ValueError):
        return UNKNOWN_MEMORY


@torch.no_grad()
def distance_from_imagenet(spec: Spec, records: Sequence[Record]) -> float:
    """How far the maps of these images lie from those of the images that the backbone was trained on.

    The mean over all channels that enter a batch norm of ``|mean here - running mean| / running std``, over 16 images.
    """
    backbone: Any = replace(spec.backbone, norm="batch", frozen_stages=0)  # type: ignore[type-var]
    body = backbone.build((3, 4, 5)).eval()
    backbone.load_pretrained(body)
    norms = [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
    means: dict[nn.Module, Tensor] = {m: torch.zeros(m.num_features) for m in norms}
    probed = records[:: -(-len(records) // PROBED)]

    def add(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        means[norm] += args[0].mean((0, 2, 3)) / len(probed)

    hooks = [m.register_forward_pre_hook(add) for m in norms]
    for record in probed:
        body(spec.with_pixels().input.batch([load_image(record.path)]).pixels)
    for hook in hooks:
        hook.remove()
    apart = [_apart(norm, mean) for norm, mean in means.items()]
    return float(torch.stack(apart).mean())


def _apart(norm: nn.Module, mean: Tensor) -> Tensor:
    """The mean over the channels of the distance from the running mean, in standard deviations."""
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    return ((mean - norm.running_mean).abs() / (norm.running_var + norm.eps).sqrt()).mean()
