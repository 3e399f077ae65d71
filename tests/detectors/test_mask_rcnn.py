"""Mask R-CNN's parts: targets from runs, samples of its loss, pasting. Reference: torchvision 0.29.2."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from foveal import presets
from foveal.assembly.detector import Detector
from foveal.errors import FovealError, UsageError
from foveal.masks.paste import paste
from foveal.masks.rle import Masks
from foveal.masks.targets import mask_targets
from foveal.parts.heads.mask import MaskHead
from foveal.parts.pooling.roi_align import RoIAlign
from foveal.types import Images, Match, Target, Targets


def blobs(rng: np.random.Generator, n: int, size: tuple[int, int]) -> np.ndarray:
    """Masks with holes and pieces, some up to the edges."""
    y, x = np.mgrid[: size[0], : size[1]]
    masks = np.zeros((n, *size), bool)
    for mask in masks:
        for sign in (True, True, False):
            cy, cx, r = rng.random() * size[0], rng.random() * size[1], (0.1 + 0.3 * rng.random()) * min(size)
            mask[np.hypot(y - cy, x - cx) < r] = sign
    return masks


def test_mask_targets_match_torchvision() -> None:
    """RoIAlign with as many samples as a bin has pixels, rounded up; boxes larger than an image's, or tiny."""
    rng = np.random.default_rng(0)
    sizes = [(200, 150), (130, 290)]
    canvas = (224, 320)
    masks = [blobs(rng, n, size) for n, size in zip((5, 3), sizes, strict=True)]
    targets = Targets.pad(
        [Target(torch.rand(len(m), 4), torch.zeros(len(m)).long(), masks=Masks.of_dense(m)) for m in masks]
    )
    assert targets.masks is not None and targets.masks.shape[:2] == (2, 5)
    k = 40
    corner = torch.from_numpy(rng.random((2, k, 2))).float()
    side = torch.from_numpy(rng.random((2, k, 2)) ** 2).float() * (1 - corner)
    limit = torch.tensor(sizes).flip(1)[:, None].float()
    boxes = torch.cat([corner, corner + side], 2) * limit.repeat(1, 1, 2)
    boxes[0, 0] = torch.tensor([0.0, 0.0, 150.0, 200.0])  # the whole image
    boxes[1, 0] = torch.tensor([234.0, 74.0, 290.0, 130.0])  # 56 x 56 in the corner: exactly two samples a bin
    boxes[1, 1] = torch.tensor([7.5, 9.5, 7.6, 60.0])  # narrower than a pixel
    gt = torch.from_numpy(np.stack([rng.integers(0, len(m), k) for m in masks]))
    for m in (28, 14):
        found = mask_targets(targets.masks, gt, boxes, torch.tensor(sizes), canvas, m)
        for i in range(2):
            expected = project_masks_on_boxes(torch.from_numpy(masks[i]), boxes[i], gt[i], m)
            torch.testing.assert_close(found[i], expected, rtol=0, atol=2e-5)
            assert expected.std() > 0.2


def test_chunked_mask_targets_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    masks = Masks.of_dense(blobs(rng, 4, (60, 80)))
    targets = Targets.pad([Target(torch.rand(4, 4), torch.zeros(4).long(), masks=masks)])
    boxes = torch.tensor([[[3.0, 5, 40, 50], [0, 0, 80, 60], [20, 10, 33, 44]]])
    arguments = targets.masks, torch.tensor([[0, 1, 3]]), boxes, torch.tensor([[60, 80]]), (64, 96), 28
    whole = mask_targets(*arguments)
    monkeypatch.setattr("foveal.masks.targets.CACHED", 1)
    assert torch.equal(mask_targets(*arguments), whole)


def test_a_target_by_hand() -> None:
    # The left half of 8 x 8 in the box of all of it: 4 x 4 bins of 2 x 2 samples at 0.5, 1.5, ... The one at 3.5 lies
    # between column 3 (inside) and 4 (outside) and counts half, so bin 1 (2.5 and 3.5) is 0.75 and bin 2 is 0.
    mask = np.zeros((1, 8, 8), bool)
    mask[:, :, :4] = True
    targets = Targets.pad([Target(torch.rand(1, 4), torch.zeros(1).long(), masks=Masks.of_dense(mask))])
    box = torch.tensor([[[0.0, 0, 8, 8]]])
    found = mask_targets(targets.masks, torch.zeros(1, 1).long(), box, torch.tensor([[8, 8]]), (8, 8), 4)
    assert found[0, 0].tolist() == [[1.0, 0.75, 0.0, 0.0]] * 4


def test_mask_pasting_matches_torchvision() -> None:
    rng = np.random.default_rng(2)
    size = (120, 170)
    corner = rng.random((60, 2)) * [150, 100]
    boxes = np.concatenate([corner, corner + 1 + rng.random((60, 2)) * [60, 80]], 1)
    boxes = torch.from_numpy(boxes.clip(0, [170, 120, 170, 120])).float()
    boxes[0], boxes[1] = torch.tensor([0.0, 0, 170, 120]), torch.tensor([50.0, 50, 50.2, 50.1])
    small = torch.from_numpy(rng.random((60, 1, 28, 28)) ** 0.5).float()
    expected = paste_masks_in_image(small, boxes, size)[:, 0] > 0.5
    found = paste(small[:, 0], boxes, size, 0.5)
    assert found.size == size and len(found) == 60
    np.testing.assert_array_equal(found.dense(), expected.numpy())
    assert len(paste(small[:0, 0], boxes[:0], size, 0.5)) == 0


# ------------------------------------------------------------------------------------------------- the loss
def branch(rows: int = 6) -> MaskHead:
    return MaskHead(RoIAlign(4, ratio=2, levels=(2, 2)), convs=1, channels=8, rows=rows)


def test_mask_loss_only_uses_positives_with_masks() -> None:
    """The mean over RoIs matched to an object with a mask; objects without a mask do not count."""
    torch.manual_seed(0)
    head = branch()
    net = head.build(8, 3, head.pool)
    features = [torch.randn(2, 8, 16, 16)]
    dense = blobs(np.random.default_rng(0), 2, (64, 64))
    dense[1] = False  # without a mask
    boxes = torch.tensor([[4.0, 4, 40, 40], [10, 20, 60, 60]])
    targets = Targets.pad(
        [
            Target(boxes, torch.tensor([2, 0]), masks=Masks.of_dense(dense)),
            Target(torch.zeros(0, 4), torch.zeros(0).long(), masks=Masks.empty((64, 64))),
        ]
    )
    size = torch.tensor([[64, 64]] * 2)
    images = Images(torch.zeros(2, 3, 64, 64), size, torch.tensor([[1.0, 1, 0, 0]] * 2), size)
    rows = torch.cat([boxes, boxes + 2, boxes - 3])[None].repeat(2, 1, 1)
    gt = torch.tensor([[0, 1, 0, 1, 0, 1], [0] * 6])
    positive = torch.tensor([[True, True, False, True, True, False], [False] * 6])
    match = Match(gt, positive, torch.zeros_like(positive))
    found = net.loss(features, rows, match, targets, images, (4,), None)
    # RoIs 0 and 4 of the first image, the object of class 2
    logits = net(features, rows[:, [0, 4]], torch.tensor([[2, 2], [0, 0]]), (4,))[0]
    goal = project_masks_on_boxes(torch.from_numpy(dense), rows[0, [0, 4]], torch.tensor([0, 0]), 8)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, goal)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = net.loss(features, rows, replace(match, positive=positive & False), targets, images, (4,), None)
    nothing.backward()
    assert nothing.item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())
    with pytest.raises(FovealError, match="no masks"):
        net.loss(features, rows, match, replace(targets, masks=None), images, (4,), None)


def test_number_of_mask_samples_is_fixed() -> None:
    head = branch(rows=4)
    net = head.build(8, 3, head.pool)
    positive = torch.zeros(3, 10, dtype=torch.bool)
    positive[0, [1, 7]] = True
    positive[1] = True
    index, kept = net._sample(positive, torch.Generator().manual_seed(0))
    assert index.shape == kept.shape == (3, 4) and kept.sum(1).tolist() == [2, 4, 0]
    assert set(index[0].tolist()) == {1, 7}  # repeated, so that a norm only sees objects
    assert len(set(index[1].tolist())) == 4


# --------------------------------------------------------------------------------------------- the detector
def make_batch(*counts: int) -> tuple[Images, Targets]:
    rng = np.random.default_rng(len(counts))
    size = torch.tensor([[96, 128]] * len(counts))
    pixels = torch.from_numpy(rng.integers(0, 256, (len(counts), 3, 96, 128), dtype=np.uint8))
    targets = []
    for n in counts:
        masks = Masks.of_dense(blobs(rng, n, (96, 128)))
        targets.append(Target(torch.from_numpy(masks.extents()).float(), torch.arange(n) % 2, masks=masks))
    return Images(pixels, size, torch.tensor([[1.0, 1, 0, 0]] * len(counts)), size), Targets.pad(targets)


@pytest.fixture(scope="module")
def mini() -> Detector:
    torch.manual_seed(0)
    return presets.mask_rcnn_mini.build(["a", "b"])


def test_masks_come_with_the_boxes(mini: Detector) -> None:
    images, targets = make_batch(3, 0)
    losses, found = mini.eval()(images, targets, detect=True)
    assert "mask" in losses and math.isfinite(losses["mask"].item())
    for d in found:
        assert d.masks is not None and len(d.masks) == len(d) and d.masks.size == (96, 128)
        some = d.above(float(d.scores.median()))
        assert len(some) and some.masks is not None and len(some.masks) == len(some)
        row = some.to_list()[0]
        assert row["mask"]["size"] == [96, 128] and isinstance(row["mask"]["counts"], str)
        assert some.to_coco(7)[0]["segmentation"] == row["mask"]


def test_single_colors_and_no_objects(mini: Detector) -> None:
    gray = [np.full((60, 80, 3), level, np.uint8) for level in (0, 255)]
    for d in mini.predict_arrays(gray):
        assert d.masks is not None and len(d.masks) == len(d)
    images, targets = make_batch(0, 0)
    losses = mini.train()(images, targets)
    assert losses["mask"].item() == 0.0
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in mini.parameters() if p.requires_grad)


def test_torchvision_call_convention_accepts_bitmaps(mini: Detector) -> None:
    images, targets = make_batch(2)
    dense = blobs(np.random.default_rng(1), 2, (96, 128))
    boxes = torch.tensor([[0.0, 0, 60, 60], [30, 30, 100, 90]])
    given = {"boxes": boxes, "labels": torch.tensor([0, 1]), "masks": torch.from_numpy(dense)}
    image = images.pixels[0] / 255
    assert "mask" in mini([image], [given])
    for wrong in ({**given, "masks": given["masks"][:, :-1]}, {k: v for k, v in given.items() if k != "masks"}):
        with pytest.raises(FovealError, match="masks"):
            mini([image], [wrong])
    with pytest.raises(FovealError, match="no masks"):
        mini(images, replace(targets, masks=None))


def test_invalid_settings() -> None:
    for wrong in ({"rows": 0}, {"convs": 0}, {"threshold": 1.5}):
        with pytest.raises(UsageError):
            MaskHead(**wrong)
