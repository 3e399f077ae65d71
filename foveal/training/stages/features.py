"""Computes and stores the inputs of R-CNN's last two layers for every window of the training set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...assembly.detector import in_evaluation
from ...assembly.two_stage import TwoStage
from ...boxes import pairwise_iou
from ...data.loader.map_cache import Store, halves, key_of
from ...data.loader.shared_records import network_targets
from ...data.records.dataset import Dataset
from ...data.records.fingerprint import fingerprint, proposal_fingerprint
from ...external_proposals.cache import content_keys
from ...files.aliases import OnProgress
from ...recipe import Recipe
from .feature_rows import ImageFeatures, overlaps_of

Layer = Literal["classes", "boxes"]
LAYERS: tuple[Layer, Layer] = ("classes", "boxes")
IGNORED = 0.5  # a proposal that overlaps an ignored region by this much is not used


@dataclass(frozen=True)
class FeatureStore(Store):
    """The stored features and objects of each image, for detectors of ``classes`` classes."""

    classes: int

    def read(self, index: int, layer: Layer) -> ImageFeatures:
        """The windows of one image: all for the class layer, those near an object for the box layer.

        Only these tensors of the file are read: the box layer takes a pass for every few classes, of little data.
        """
        names = ("windows", "objects", "labels", "near", layer, f"{layer}.norms")
        with self.opened(index, "np") as file:
            windows, objects, labels, near, features, norms = (file.get_tensor(name) for name in names)
        window_labels = np.full(len(windows), -1, np.int64)
        if len(labels):
            window_labels[len(windows) - len(labels) :] = labels  # the objects come last
        overlaps, truth = overlaps_of(windows, objects, labels, self.classes)
        image = ImageFeatures(features, windows, window_labels, overlaps, truth, norms)
        return _near(image, near) if layer == "boxes" else image

    def images_of(self, layer: Layer) -> StoredFeatures:
        """The features of one layer, image by image."""
        return StoredFeatures(self, layer)


@dataclass(frozen=True)
class StoredFeatures:
    """Iterates over the images any number of times, in the order of the records, one in memory at a time."""

    store: FeatureStore
    layer: Layer

    def __iter__(self) -> Iterator[ImageFeatures]:
        for index in range(self.store.images):
            yield self.store.read(index, self.layer)


@dataclass(frozen=True)
class Extraction:
    """Fills a store. The box layer's features are stored of windows that overlap an object by ``near`` or more."""

    detector: TwoStage
    dataset: Dataset
    fit: Recipe
    near: float
    autocast: Callable[[], AbstractContextManager[object]]

    @property
    def key(self) -> str:
        """A digest of the weights below the last layers, the images, the windows and the objects."""
        weights = {k: v for k, v in self.detector.state_dict().items() if ".predictor." not in k}
        recipe = (self.near, self.fit.difficult, self.fit.crowd, self.detector.spec.input)
        given = fingerprint(self.dataset), proposal_fingerprint(self.dataset), content_keys(self.dataset.records)
        return key_of(weights, *recipe, *given)

    def __call__(self, store: FeatureStore, step: OnProgress) -> dict[int, str]:
        """See :meth:`Store.fill`. Raises :class:`FovealError` for features that are not finite in half precision, too.

        Images that cannot be read have no windows.
        """
        with in_evaluation(self.detector):
            return store.fill(self.key, self.dataset.records, self._of, step)

    @torch.no_grad()
    def _of(self, index: int, image: NDArray[np.uint8] | None) -> dict[str, Tensor]:
        """The stored tensors of an image: its proposals, then its objects, in network pixels."""
        if image is None:
            return dict.fromkeys(("windows", "objects", *LAYERS), torch.zeros(0, 4)) | _numbers(torch.zeros(0))
        record = self.dataset.records[index]
        images = self.detector.prepare([image], None if record.proposals is None else [record.proposals])
        targets = network_targets([record], images, self.fit)
        assert images.proposals is not None and images.proposals_valid is not None
        objects, ignored = targets.boxes[0][targets.valid[0]], targets.boxes[0][targets.ignore[0]]
        proposals = images.proposals[0][images.proposals_valid[0]]
        if len(ignored):
            proposals = proposals[pairwise_iou(proposals, ignored).amax(1) < IGNORED]
        windows = torch.cat([proposals, objects])
        near = torch.zeros(0, dtype=torch.int64)
        if len(objects) and len(proposals):  # a little more than is used, because of rounding
            near = (pairwise_iou(proposals, objects).amax(1).cpu() > self.near - 1e-3).nonzero()[:, 0]
        with self.autocast():
            features = self.detector.outputs(images).features
        vectors: dict[Layer, list[Tensor]] = {"classes": [], "boxes": []}
        norms: dict[Layer, list[Tensor]] = {"classes": [], "boxes": []}
        start = 0
        pairs = self.detector.split_features(features, windows[None], images.sizes) if len(windows) else ()
        for pair in pairs:
            for layer, inputs in zip(LAYERS, pair, strict=True):
                inputs = inputs.float().cpu()
                norms[layer].append(inputs.norm(dim=1))
                near_here = near[(near >= start) & (near < start + len(inputs))] - start
                vectors[layer].append(inputs if layer == "classes" else inputs[near_here])
            start += len(pair[0])
        stored = halves({k: torch.cat(parts) if parts else torch.zeros(0, 4) for k, parts in vectors.items()}, record)
        lengths = {k: torch.cat(parts) if parts else torch.zeros(0) for k, parts in norms.items()}
        return {
            "windows": windows.cpu(),
            "objects": objects.cpu(),
            **stored,
            **_numbers(lengths["classes"], lengths["boxes"], targets.labels[0][targets.valid[0]].cpu(), near),
        }


def _numbers(
    classes: Tensor, boxes: Tensor | None = None, labels: Tensor | None = None, near: Tensor | None = None
) -> dict[str, Tensor]:
    """The small entries of a file; those that are not given are empty."""
    empty = torch.zeros(0, dtype=torch.int64)
    return {
        "classes.norms": classes,
        "boxes.norms": classes if boxes is None else boxes,
        "labels": empty if labels is None else labels,
        "near": empty if near is None else near,
    }


def _near(image: ImageFeatures, index: NDArray[np.int64]) -> ImageFeatures:
    """The windows whose box features are stored; ``features`` holds only these already."""
    return replace(
        image,
        boxes=image.boxes[index],
        labels=image.labels[index],
        overlaps=image.overlaps[index],
        truth=image.truth[index],
    )
