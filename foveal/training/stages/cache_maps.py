"""A head that learns on stored maps: the backbone keeps still, so it looks at each image once (SPP-Net, 4.1)."""

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
from ...recipe import Stage
from ...types import Images, Priors, Targets

FOLDER = "maps"


class OnMaps(nn.Module):
    """What of a detector lies above its maps: rows that were pooled beforehand -> losses."""

    def __init__(self, detector: TwoStage) -> None:
        super().__init__()
        self.roi_head, self.roi = detector.roi_head, detector.roi

    def forward(self, images: Images, targets: Targets, *, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """``images`` of :class:`~foveal.data.loader.stored_maps.Pooled`: one window each."""
        boxes, valid = images.proposals, images.proposals_valid
        assert boxes is not None and valid is not None
        predictions = self.roi_head(images.pixels, len(boxes))
        priors = Priors(boxes, (1,), valid)
        with torch.autocast(boxes.device.type, enabled=False):
            match = self.roi.matcher(priors, targets)
            return self.roi.losses(predictions, priors, targets, rng, match=match, sample=valid.float())


def check_maps(detector: Detector, stage: Stage) -> TwoStage:
    """Raises :class:`UsageError` where a detector has no head of its own above maps, or the stage moves the maps."""
    wrong, names = None, [name for name, _ in detector.named_parameters()]
    if not isinstance(detector, TwoStage) or not isinstance(detector.proposer, ExternalProposals):
        wrong = "needs a detector that pools proposals from outside"
    elif not any(name.startswith("backbone.") for name in names):
        wrong = "needs a backbone that sees whole images"
    elif any(name.startswith(("backbone.", "neck.")) and name.startswith(stage.trains) for name in names):
        wrong = "keeps backbone and neck still, and trains names them"
    if wrong is not None:
        raise UsageError(f'fit.stages: inputs="maps" {wrong}', where=str(stage.trains), fix="Use SPPNet or FastRCNN")
    assert isinstance(detector, TwoStage)
    return detector


def store_maps(
    detector: TwoStage,
    dataset: Dataset,
    out: Path,
    *,
    mirrored: bool,
    autocast: Callable[[], AbstractContextManager[object]],
    step: Callable[[int, int], None],
) -> tuple[MapStore, dict[int, str]]:
    """Stores what is missing of the maps of a set, half precision, and those of the mirror images too where asked.

    Returns the store, and the images that cannot be read, with the reason. ``step(done, all)`` may raise: the next call
    goes on with the next image.
    """
    store = MapStore(out / FOLDER, len(dataset))
    parts = {k: v for k, v in detector.state_dict().items() if k.startswith(("backbone.", "neck."))}
    key = key_of(parts, detector.spec.input, mirrored, fingerprint(dataset), content_keys(dataset.records))

    @torch.no_grad()
    def maps(image: NDArray[np.uint8], name: str) -> tuple[dict[str, Tensor], Images]:
        images = detector.prepare([image], [np.zeros((0, 4), np.float32)])
        with autocast():
            features = detector.features(images)
        return {f"{name}.{level}": feature for level, feature in enumerate(features)}, images

    def of(index: int, image: NDArray[np.uint8] | None) -> dict[str, Tensor]:
        if image is None:
            return {"width": torch.zeros(())}
        found, images = maps(image, "plain")
        if mirrored:
            found |= maps(np.ascontiguousarray(image[:, ::-1]), "mirrored")[0]
        numbers = {"size": images.sizes.cpu(), "frame": images.frame[0].double().cpu()}
        return {**halves(found, dataset.records[index]), **numbers, "width": torch.tensor(float(image.shape[1]))}

    with in_evaluation(detector):
        return store, store.fill(key, dataset.records, of, step)
