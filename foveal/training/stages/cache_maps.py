"""Stores the feature maps of a frozen backbone, so that the head alone is run in training (SPP-Net, 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...assembly.detector import Detector, in_evaluation
from ...assembly.proposers import ExternalProposals
from ...assembly.two_stage import TwoStage
from ...data.loader.map_cache import halves, key_of
from ...data.loader.stored_maps import MapStore
from ...data.records.dataset import Dataset
from ...data.records.fingerprint import fingerprint
from ...errors import UsageError
from ...external_proposals.cache import content_keys
from ...files.aliases import OnProgress
from ...recipe import OnStoredMaps
from ...types import Images, Priors, Targets

FOLDER = "maps"


class PooledHead(nn.Module):
    """The head of a detector on windows that were pooled beforehand: what learns in :class:`OnStoredMaps`."""

    def __init__(self, detector: TwoStage) -> None:
        super().__init__()
        self.roi_head, self.roi = detector.roi_head, detector.roi

    def forward(self, images: Images, targets: Targets, *, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """Named scalar losses. ``images`` of :class:`~foveal.data.loader.stored_maps.Pooled`: one window each."""
        boxes, valid = images.proposals, images.proposals_valid
        assert boxes is not None and valid is not None
        predictions = self.roi_head(images.pixels, len(boxes))
        priors = Priors(boxes, (1,), valid)
        with torch.autocast(boxes.device.type, enabled=False):
            match = self.roi.matcher(priors, targets)
            return self.roi.losses(predictions, priors, targets, rng, match=match, sample=valid.float())


def check_maps(detector: Detector, stage: OnStoredMaps) -> TwoStage:
    """Raises :class:`UsageError` where a detector has no head above whole maps, or the stage trains below it."""
    names = [name for name, _ in detector.named_parameters()]
    if not isinstance(detector, TwoStage) or not isinstance(detector.proposer, ExternalProposals):
        problem = "needs a detector that pools external proposals"
    elif not any(name.startswith("backbone.") for name in names):
        problem = "needs a backbone that sees whole images"
    elif any(name.startswith(("backbone.", "neck.")) and name.startswith(stage.trains) for name in names):
        problem = "freezes backbone and neck, but trains names them"
    else:
        return detector
    raise UsageError(f"fit.stages: OnStoredMaps {problem}", where=str(stage.trains), fix="Use SPPNet or FastRCNN")


def store_maps(
    detector: TwoStage,
    dataset: Dataset,
    out: Path,
    *,
    mirrored: bool,
    autocast: Callable[[], AbstractContextManager[object]],
    step: OnProgress,
) -> tuple[MapStore, dict[int, str]]:
    """Stores the missing maps of a dataset in half precision, and with ``mirrored`` those of the mirror images too.

    Returns the store, and the images that cannot be read, with the reason. ``step`` may raise: the next call continues
    with the next image.
    """
    store = MapStore(out / FOLDER, len(dataset))
    weights = {k: v for k, v in detector.state_dict().items() if k.startswith(("backbone.", "neck."))}
    key = key_of(weights, detector.spec.input, mirrored, fingerprint(dataset), content_keys(dataset.records))

    @torch.no_grad()
    def maps(image: NDArray[np.uint8], name: str) -> tuple[dict[str, Tensor], Images]:
        images = detector.prepare([image], [np.zeros((0, 4), np.float32)])
        with autocast():
            features = detector.features(images)
        return {f"{name}.{level}": feature for level, feature in enumerate(features)}, images

    def of(index: int, image: NDArray[np.uint8] | None) -> dict[str, Tensor]:
        if image is None:
            return {"width": torch.zeros(())}
        tensors, images = maps(image, "plain")
        if mirrored:
            tensors |= maps(np.ascontiguousarray(image[:, ::-1]), "mirrored")[0]
        numbers = {"size": images.sizes.cpu(), "frame": images.frame[0].double().cpu()}
        return {**halves(tensors, dataset.records[index]), **numbers, "width": torch.tensor(float(image.shape[1]))}

    with in_evaluation(detector):
        return store, store.fill(key, dataset.records, of, step)
