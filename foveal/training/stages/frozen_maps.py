"""Trains with the maps of the frozen layers stored: each view of an image goes through those layers once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ...assembly.detector import Detector, network_pixels
from ...data.augment.combine import Combination
from ...data.augment.transforms import HorizontalFlip, expanded
from ...data.loader.batches import TrainBatches
from ...data.loader.loader import Loader
from ...data.loader.map_cache import ViewStore, key_of, open_folder_of
from ...data.loader.view_batches import FEW, ViewBatches
from ...errors import UsageError
from ...external_proposals.cache import content_keys
from ...parts.backbones.frozen_layers import FrozenLayers, find_frozen_layers
from ...recipe import FrozenMaps, OnImages, OnProposals, Recipe
from ...runtime import processes
from ...runtime.progress import Console
from ...types import Images, Targets
from ..loop.job import Job
from ..loop.optimizers import set_learning, trainable_names

if TYPE_CHECKING:
    from ...data.records.dataset import Dataset

FOLDER = "frozen-maps"


def check_frozen_maps(detector: Detector, fit: Recipe) -> None:
    """Raises :class:`UsageError` where ``fit.frozen_maps`` is set and the recipe or the detector does not allow it."""
    stages = [stage for stage in fit.stages if isinstance(stage, OnImages | OnProposals)]
    if fit.frozen_maps is None:
        return
    combined = [type(t).__name__ for t in fit.augment if isinstance(t, Combination)]
    if combined:
        raise UsageError(
            f"{', '.join(combined)} in fit.augment combines images, whose maps cannot be stored",
            where="fit.frozen_maps",
            fix="Leave one of the two out",
        )
    endless = [type(t).__name__ for t in expanded(fit.augment) if not isinstance(t, FEW)]
    if endless and fit.frozen_maps.views is None:
        raise UsageError(
            f"{', '.join(endless)} in fit.augment makes other pixels in every epoch: stored maps would never be used",
            where="fit.frozen_maps",
            fix='Draw a few views of each image, "fit.frozen_maps=FrozenMaps(views=4)", or leave it out of fit.augment',
        )
    trainable, found = trainable_names(detector), False
    training = [module for module in detector.modules() if module.training]
    for stage in stages:
        set_learning(detector, stage, trainable)
        _check_norms(detector)
        found = found or _frozen_layers(detector) is not None
    for name, parameter in detector.named_parameters():
        parameter.requires_grad_(name in trainable)
    detector.eval()
    for module in training:
        module.training = True
    if not found:
        raise UsageError(
            "the backbone has no layer that is frozen before the first one that learns",
            where="fit.frozen_maps",
            fix="Freeze some, as in backbone.frozen_stages=2, or leave it out",
        )


def _check_norms(detector: nn.Module) -> None:
    """Raises :class:`UsageError` for batch norms of frozen layers whose statistics move nevertheless."""
    for name, norm in detector.named_modules():
        parameters = list(norm.parameters(recurse=False))
        is_moving = isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training
        if name.startswith("backbone.") and is_moving and parameters and not any(p.requires_grad for p in parameters):
            raise UsageError(
                f"the statistics of the batch norm {name} move, although its layer is frozen",
                where="fit.frozen_maps",
                fix="Set backbone.norm=frozen, or leave it out",
            )


def _frozen_layers(detector: nn.Module) -> FrozenLayers | None:
    """Those of the backbone, of a detector that has one with parameters."""
    backbone = dict(detector.named_children()).get("backbone")
    if backbone is None or next(backbone.parameters(), None) is None:
        return None
    return find_frozen_layers(backbone)


class AboveFrozenLayers(nn.Module):
    """A detector whose frozen layers are not run: their maps come with the images."""

    def __init__(self, detector: Detector, layers: FrozenLayers) -> None:
        super().__init__()
        self.detector, self.layers = detector, layers

    def forward(
        self, images: Images, targets: Targets, *, rng: torch.Generator | None = None, learning: str | None = None
    ) -> dict[str, Tensor]:
        """The detector's losses, of images with ``frozen_maps``."""
        weight = next(p for p in self.detector.parameters() if p.dim() == 4)
        plain = not weight.is_contiguous(memory_format=torch.channels_last)
        maps = [m.permute(0, 3, 1, 2) for m in images.frozen_maps]  # channels-last
        maps = [m.float() if m.dtype == torch.float16 else m for m in maps]
        with self.layers.given([m.contiguous() for m in maps] if plain else maps):
            losses: dict[str, Tensor] = self.detector(images, targets, rng=rng, learning=learning)
        return losses


def above_frozen_layers(detector: Detector, images: Images) -> tuple[nn.Module, Images]:
    """What learns now, and these normalized images with the maps that it takes; both as they are without any."""
    layers = _frozen_layers(detector)
    if layers is None:
        return detector, images
    maps = tuple(m.permute(0, 2, 3, 1) for m in layers(network_pixels(detector, images)))
    return AboveFrozenLayers(detector, layers), replace(images, frozen_maps=maps)


class FrozenMapStages:
    """The stages of one loop: what learns in each, with the batches of ``loader`` made for it.

    In a stage without frozen layers the batches have pixels.
    """

    def __init__(self, job: Job, settings: FrozenMaps, loader: Loader, dataset: Dataset, console: Console) -> None:
        """``loader`` has no worker processes: after the first pass there is nothing to decode."""
        self.job, self.settings, self.loader, self.console = job, settings, loader, console
        self.plain, self.dataset = cast(TrainBatches, loader.builder), dataset
        self.contents = content_keys(dataset.records)

    def begin(self) -> nn.Module:
        """Prepares the loader for the stage that begins. Returns what learns in it."""
        detector, layers = self.job.detector, _frozen_layers(self.job.detector)
        if layers is None:
            self.loader.builder = self.plain
            self.console.print("frozen maps: none, the whole backbone learns now")
            return detector
        store = ViewStore(self.job.out / FOLDER, int(self.settings.gigabytes * 1e9 / self.job.fabric.world_size))

        def prepare() -> list[str]:
            open_folder_of(store.folder, self._key(layers))
            return []

        processes.first_alone(self.job.fabric, prepare)
        store.open()

        def compute(images: Images) -> list[Tensor]:
            batch = detector.normalize(images.to(detector.device))
            with torch.no_grad(), self.job.fabric.autocast():
                return layers(network_pixels(detector, batch))

        batches = ViewBatches(self.plain, store, compute, self.settings.precision == "16")
        self.loader.builder = batches
        self._report(batches)
        return AboveFrozenLayers(detector, layers)

    def _key(self, layers: FrozenLayers) -> str:
        """A digest of the weights, the images and whatever decides which view of them is which."""
        weights = {f"{i}.{k}": v for i, layer in enumerate(layers.layers) for k, v in layer.state_dict().items()}
        fit, fixed = self.job.fit, self.job.fixed
        views = (fit.augment, self.settings.views, fixed["seed"], self.job.detector.spec.input)
        return key_of(weights, views, fixed["precision"], self.settings.precision, self.contents)

    def _report(self, batches: ViewBatches) -> None:
        """The maps of one view, and whether those of all images have room."""
        rule, record = self.plain.input, self.dataset.records[0]
        height, width = rule.canvas([rule.size(record.height, record.width)])
        pixels = torch.zeros((1, 3, height, width), dtype=torch.uint8)
        numbers = torch.tensor([[height, width]])
        maps = batches.compute(Images(pixels, numbers, torch.zeros(1, 4), numbers))
        size = sum(m.numel() * (2 if batches.half else m.element_size()) for m in maps)
        shapes = ", ".join(f"{m.shape[1]} x {m.shape[2]} x {m.shape[3]}" for m in maps)
        mirrored = any(isinstance(t, HorizontalFlip) and 0 < t.p < 1 for t in self.plain.augment)
        views = len(self.dataset) * (self.settings.views or 1 + mirrored)
        line = f"frozen maps: {shapes} of {height} x {width} pixels, {size / 1e3:.0f} kB a view, {views} views or more"
        room = batches.store.limit * self.job.fabric.world_size / size
        if room < views:
            line = f"warning: {line}; {room:.0f} fit into {room * size / 1e9:.2g} GB, the others are computed again"
        self.console.print(line)
