"""The border of a detector: people's images, boxes and masks as they come -> batches, and masks back to bitmaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import FovealError
from ..files.aliases import ImageArray
from ..masks.rle import Masks
from ..parts.resizing import Input
from ..types import Boxes, Images, Target, Targets

if TYPE_CHECKING:
    from ..parts.selective_search import ProposalSource

Boxes4 = np.ndarray[Any, np.dtype[np.float32]]  # (P, 4) xyxy

SLACK = 0.5  # by which values of images may exceed 0..1
_DECODED = 8  # images in memory at once: decoded ones are large


# ------------------------------------------------------------------------------------------------ images
def decoded(source: Any) -> tuple[bool, Iterator[list[ImageArray]]]:
    """Whether ``source`` stands for several images, and the images in groups of a few.

    ``source``: an image (path, array, PIL image, tensor), a list of them, or a folder.
    """
    from ..data.images.load import as_rgb, find_images

    if isinstance(source, (str, Path)) and Path(source).is_dir():
        source = find_images(Path(source))
    several = isinstance(source, (list, tuple))
    sources = source if several else [source]
    groups = (sources[i : i + _DECODED] for i in range(0, len(sources), _DECODED))
    return several, ([as_rgb(one) for one in group] for group in groups)


def from_tensors(images: Any, rule: Input, source: ProposalSource | None, device: torch.device) -> Images:
    """Torchvision's form, a list of (3, H, W) in 0..1, -> a normalized batch. Values are used as given, not rounded to
    bytes.

    ``source`` makes the external proposals, where the detector needs them, from the images as bytes. Raises
    :class:`FovealError` for another form, and for values that are far from 0..1: of bytes, or normalized already.
    """
    check_tensors(images)
    batch = rule.batch_tensors(images).to(device)
    if source is None:
        return batch
    arrays = [(t.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().contiguous().numpy() for t in images]
    return attach_proposals(batch, arrays, source)


def check_tensors(images: Any) -> None:
    """Raises :class:`FovealError` for anything but a list of tensors (3, H, W) of floating point in 0..1."""
    fix = "Give a list of (3, H, W) tensors in 0..1, or arrays, files or PIL images to predict()"
    if not isinstance(images, list) or not images:
        shape = f" of shape {tuple(images.shape)}" if isinstance(images, Tensor | np.ndarray) else ""
        raise FovealError(f"a detector was called with {_article(images)}{shape}", fix=fix)
    for i, image in enumerate(images):
        if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
            is_array = isinstance(image, Tensor | np.ndarray)
            what = f"{image.dtype} of shape {tuple(image.shape)}" if is_array else _article(image)
            raise FovealError(f"images[{i}] is {what}, expected floating-point numbers (3, H, W)", fix=fix)
    extremes = torch.stack([torch.stack(image.detach().float().aminmax()) for image in images]).tolist()
    for i, (low, high) in enumerate(extremes):  # resampling may overshoot a little
        if not -SLACK <= low <= high <= 1 + SLACK:
            fix = "Divide bytes by 255; the detector normalizes"
            raise FovealError(f"images[{i}] has values from {low:.4g} to {high:.4g}, expected 0..1", fix=fix)


def _article(value: Any) -> str:
    name = "an empty list" if value == [] else type(value).__name__
    return name if name.startswith("an ") else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def attach_proposals(
    batch: Images, images: Sequence[ImageArray], source: ProposalSource, given: Sequence[Boxes4] | None = None
) -> Images:
    """The batch with external proposals: those ``given`` (P, 4) in the pixels of each image, else the source's."""
    boxes = [source(image).boxes[: source.top] for image in images] if given is None else given
    for i, each in enumerate(boxes):
        if not np.isfinite(each).all():
            bad = int(np.flatnonzero(~np.isfinite(np.reshape(each, (-1, 4))).all(1))[0])
            raise FovealError(f"proposal {bad} of image {i} is {np.reshape(each, (-1, 4))[bad].tolist()}: not finite")
    return batch.with_proposals([torch.from_numpy(np.array(b, np.float32).reshape(-1, 4)) for b in boxes])


# ----------------------------------------------------------------------------------------------- targets
def pad_targets(
    targets: list[dict[str, Tensor]], images: Images, classes: int | None, *, masks: bool = False
) -> Targets:
    """Torchvision's form of targets, with our labels, -> a padded batch in network pixels.

    Each has ``boxes`` (G, 4) in the pixels of its image, ``labels`` (G,) from 0 to ``classes`` - 1 (None: unchecked)
    and, with ``masks``, bitmaps ``masks`` (G, H, W). Raises :class:`FovealError` for anything else.
    """
    if len(targets) != len(images.pixels):
        raise FovealError(f"{len(targets)} targets for {len(images.pixels)} images", fix="Give one target an image")
    for i, target in enumerate(targets):
        boxes, labels = target["boxes"], target["labels"]
        if boxes.dim() != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            shapes = f"boxes {tuple(boxes.shape)} and labels {tuple(labels.shape)}"
            raise FovealError(f"targets[{i}] has {shapes}, expected (G, 4) and (G,)")
        if not bool(boxes.isfinite().all()):
            bad = int((~boxes.isfinite().all(1)).nonzero()[0])
            raise FovealError(f"targets[{i}] box {bad} is {boxes[bad].tolist()}: not finite")
        if classes is not None and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise FovealError(
                f"targets[{i}] has labels from {int(labels.min())} to {int(labels.max())}, expected 0 to {classes - 1}",
                fix="Make the labels 0-based, without one for background",
            )
    given: Sequence[Masks | None] = _network_masks(targets, images) if masks else [None] * len(targets)
    pairs = zip(targets, given, strict=True)
    padded = Targets.pad([Target(t["boxes"].float().cpu(), t["labels"].cpu(), masks=m) for t, m in pairs])
    padded = padded.to(images.pixels.device)
    return replace(padded, boxes=images.to_network(padded.boxes) * padded.valid[..., None])


def _network_masks(targets: list[dict[str, Tensor]], images: Images) -> list[Masks]:
    """Bitmaps (G, H, W) of the images as they were given -> masks in network pixels."""
    converted = []
    sizes, frames = images.original.tolist(), images.frame.tolist()
    for i, (target, size, frame) in enumerate(zip(targets, sizes, frames, strict=True)):
        shape, expected = tuple(target["masks"].shape) if "masks" in target else None, (len(target["boxes"]), *size)
        if shape != expected:
            raise FovealError(f"targets[{i}] has masks {shape}, expected {expected}: bitmaps")
        converted.append(Masks.of_dense(target["masks"].cpu()).in_frame(*frame))
    return converted


# ------------------------------------------------------------------------------------------------- masks
def paste_masks(
    boxes: Boxes, original: Tensor, images: Images, counts: Sequence[int], threshold: float | None
) -> list[Masks]:
    """The masks of each image in original pixels, pasted on the CPU: only the small probability maps are transferred.

    ``original`` (B, N, 4): the boxes in original pixels. ``counts``: detections of each image. ``threshold``: a pixel
    whose probability is above this belongs to the mask.
    """
    from ..masks.paste import paste

    assert boxes.masks is not None and threshold is not None
    small, where = boxes.masks.cpu(), original.float().cpu()
    sizes = [(int(h), int(w)) for h, w in images.original.tolist()]
    return [paste(small[i, :n], where[i, :n], sizes[i], threshold) for i, n in enumerate(counts)]
