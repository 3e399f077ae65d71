"""Online hard example mining in the RoI head (Shrivastava et al. 2016): selected RoIs, losses, memory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foveal import presets
from foveal.assembly.two_stage import TwoStage
from foveal.config.overrides import override
from foveal.detectors.fast_rcnn import FAST_TASK, FastRCNN
from foveal.masks.rle import Masks
from foveal.parts.backbones.small import SmallResNet
from foveal.parts.heads.roi import RoIConv, RoIHeadSpec, RoIMLP, VGGTail
from foveal.parts.losses.box import SmoothL1
from foveal.parts.losses.normalizers import Sampled
from foveal.parts.matching.iou import IoUMatcher
from foveal.parts.necks.fpn import SingleLevel
from foveal.parts.pooling.roi_align import Pool, RoIAlign
from foveal.parts.resizing import Resize
from foveal.parts.samplers import OHEM, HardNegatives, Sampler
from foveal.parts.selective_search import SlidingWindows
from foveal.types import Images, Predictions, Priors, Target, Targets

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from common import PeakMemory

TASK = replace(FAST_TASK, matcher=IoUMatcher(0.5, 0.5, low_quality=False))  # the paper's: no lower end of background
SPEC = FastRCNN(
    input=Resize(96, 128),
    proposals=SlidingWindows(top=60),
    backbone=SmallResNet((8, 8, 16, 16)),
    levels=(4,),
    neck=SingleLevel(),
    pool=RoIAlign(5),
    roi_head=RoIMLP(24),
    roi=replace(TASK, sampler=OHEM(16, 0.7)),
)


def built(head: RoIHeadSpec = SPEC.roi_head, sampler: Sampler = SPEC.roi.sampler) -> TwoStage:
    torch.manual_seed(0)
    return replace(SPEC, roi_head=head, roi=replace(TASK, sampler=sampler)).build(["a", "b"])


def batch(proposals: int = 120) -> tuple[Images, Targets]:
    rng = torch.Generator().manual_seed(1)
    size = torch.tensor([[96, 128]] * 2)
    images = Images(torch.randn(2, 3, 96, 128, generator=rng), size, torch.tensor([[1.0, 1, 0, 0]] * 2), size)
    boxes = [torch.rand(n, 2, 2, generator=rng).sort(1).values.flatten(1) * 96 for n in (proposals, proposals - 7)]
    targets = Targets.pad(
        [
            Target(torch.tensor([[10.0, 10, 70, 60], [30, 20, 90, 90]]), torch.tensor([0, 1])),
            Target(torch.tensor([[5.0, 30, 60, 80]]), torch.tensor([1])),
        ]
    )
    return images.with_proposals(boxes), targets


# ----------------------------------------------------------------------------------------------- by hand
@dataclass(frozen=True)
class Itself(Pool):
    """Pooling that returns the boxes as features."""

    @property
    def size(self) -> int:
        return 1

    def __call__(
        self, features: Sequence[Tensor], boxes: Tensor, strides: Sequence[float], sizes: Tensor | None = None
    ) -> Tensor:
        return boxes.flatten(0, 1)[:, :, None, None]


class Table(nn.Module):
    """A head with fixed outputs for these boxes (P, 4); counts the RoIs it runs on with gradient."""

    def __init__(self, boxes: Tensor, probabilities: Tensor) -> None:
        super().__init__()
        self.boxes, self.asked = boxes, 0
        self.logits = nn.Parameter(probabilities.log())
        self.deltas = nn.Parameter(torch.zeros(len(boxes), 2, 4))

    def forward(self, rows: Tensor, batch: int) -> Predictions:
        self.asked += len(rows) * torch.is_grad_enabled()
        index = (rows[:, None, :, 0, 0] == self.boxes).all(-1).int().argmax(1)
        return Predictions(self.logits[index].unflatten(0, (batch, -1)), self.deltas[index].unflatten(0, (batch, -1)))


def test_selected_rois() -> None:
    """One object of the first class in (0, 0, 10, 10), an ignored region in (100, 100, 120, 120).

    row  box                 prediction       loss: class                box (beta 1, weights 10, 10, 5, 5)
    0    the object's        p(1) = .8        -ln .8 = .2231             0                                    .2231
    1    (0, 0, 10, 8)       p(1) = .9        -ln .9 = .1054             (1.25 - .5) + (5 ln 1.25 - .5)      1.4711
    2    far away            p(none) = .4     -ln .4 = .9163                                                  .9163
    3    overlaps 2 by .9    p(none) = .5     -ln .5 = .6931                                                  .6931
    4    elsewhere           p(none) = .99    .0101                                                           .0101
    5    in the region       p(none) = .001   excluded
    6    invalid             p(none) = .001   excluded

    By descending loss: 1, 2, 3 (suppressed by 2), 0 (suppressed by 1: .8), 4. The hardest are 1, 2; by the class loss
    alone they would be 2 and 0.
    """
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [0, 0, 10, 8], [40, 40, 50, 50], [40, 40, 50, 49], [80, 80, 90, 90], [102, 102, 112, 112],
         [60, 0, 70, 10]]
    )  # fmt: skip
    none = torch.tensor([0.1, 0.05, 0.4, 0.5, 0.99, 0.001, 0.001])
    first = torch.tensor([0.8, 0.9, 0.3, 0.2, 0.005, 0.5, 0.5])
    head = Table(boxes, torch.stack([first, 1 - first - none, none], 1))
    detector = built(sampler=OHEM(2, 0.7))
    detector.pool, detector.roi_head, detector.append_gt = Itself(), head, False
    size = torch.tensor([[128, 128]])
    images = Images(torch.randn(1, 3, 128, 128), size, torch.tensor([[1.0, 1, 0, 0]]), size)
    images = replace(images, proposals=boxes[None], proposals_valid=torch.arange(7)[None] < 6)
    ignored = torch.tensor([False, True])
    objects = torch.tensor([[0.0, 0, 10, 10], [100, 100, 120, 120]])
    targets = Targets.pad([Target(objects, torch.tensor([0, 0]), ignore=ignored)])
    losses = detector(images, targets)
    assert head.asked == 2
    assert losses["cls"].item() == pytest.approx((0.105361 + 0.916291) / 2, abs=1e-5)
    assert losses["box"].item() == pytest.approx((0.75 + 0.615718) / 2, abs=1e-5)
    torch.stack(list(losses.values())).sum().backward()
    assert head.logits.grad is not None and head.deltas.grad is not None
    assert head.logits.grad.any(1).tolist() == [False, True, True, False, False, False, False]
    assert head.deltas.grad.flatten(1).any(1).tolist() == [False, True, False, False, False, False, False]


# ------------------------------------------------------------------------------- comparison with all RoIs
def by_every_row(detector: TwoStage, images: Images, targets: Targets) -> dict[str, Tensor]:
    """The head on all RoIs with gradient; the selection uses torch's own functions."""
    outputs = detector.outputs(images)
    proposed = detector.proposer(outputs, images, training=True)
    boxes = torch.cat([proposed.boxes, targets.boxes], 1)
    priors = Priors(boxes, (boxes.shape[1],), torch.cat([proposed.valid, targets.valid], 1))
    found = detector._run_head(outputs.features, boxes, images.sizes)
    match = detector.roi.match(found, priors, targets)
    labels = targets.labels.gather(1, match.gt)
    goal = torch.where(match.positive, labels, 2)
    losses = F.cross_entropy(found.logits.flatten(0, 1), goal.flatten(), reduction="none").view(goal.shape)
    truth = targets.boxes.gather(1, match.gt[..., None].expand(-1, -1, 4))
    wanted = detector.roi.coder.encode(truth, boxes)
    deltas = found.deltas.gather(2, labels[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
    beside = F.smooth_l1_loss(deltas, wanted, reduction="none").sum(-1)
    losses = losses + torch.where(match.positive, beside, 0.0)
    keep = detector.roi.sampler.sample(match, priors, losses.detach())
    assert 0 < int(keep.sum()) < keep.numel()
    return detector.roi.losses(found, priors, targets, match=match, sample=keep)


def gradients(detector: TwoStage, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    detector.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    return {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("sampler", [OHEM(16, 0.7), OHEM(12, 0.5, ratio=3.0), OHEM(1000), HardNegatives(2.0)], ids=repr)
def test_losses_and_gradients_match_a_loop_over_rois(sampler: Sampler) -> None:
    detector = built(sampler=sampler)
    images, targets = batch()
    ours, theirs = detector(images, targets), by_every_row(detector, images, targets)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)
    mine, wanted = gradients(detector, ours), gradients(detector, theirs)
    assert mine.keys() == wanted.keys() and len(mine) > 10
    for name, value in wanted.items():
        torch.testing.assert_close(mine[name], value, rtol=0, atol=1e-6, msg=name)


def test_prior_losses_include_the_loss_weights() -> None:
    task = replace(TASK, box_loss=SmoothL1(beta=1.0, normalizer=Sampled(), weight=3.0))
    detector = built()
    images, targets = batch()
    priors = Priors(images.proposals, (120,), images.proposals_valid)  # type: ignore[arg-type]
    with torch.no_grad():
        found = detector._run_head(detector.outputs(images).features, priors.boxes, images.sizes)
    match = TASK.matcher(priors, targets)
    once, thrice = (t.prior_losses(found, priors, targets, match) for t in (TASK, task))
    assert match.positive.any()
    torch.testing.assert_close(once[~match.positive], thrice[~match.positive])
    assert (thrice[match.positive] > once[match.positive]).all()


# --------------------------------------------------------------------------------------------- first pass
def test_first_pass_does_not_update_norm_statistics() -> None:
    """Statistics are those of an iteration on the selected RoIs alone; the training mode is restored."""
    head = RoIConv(convs=1, channels=8, width=16, norm="batch")
    detector, twin = built(head), built(head)
    images, targets = batch()
    detector(images, targets)
    norm: Any = next(m for m in detector.roi_head.modules() if isinstance(m, nn.BatchNorm2d))
    assert int(norm.num_batches_tracked) == 1 and all(m.training for m in detector.modules())
    seen: list[Tensor] = []
    twin.roi_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    twin(images, targets)
    assert [len(rows) for rows in seen] == [2 * 122, 2 * 16]
    fresh: Any = built(head).roi_head
    fresh(seen[1], 2)
    other: Any = next(m for m in fresh.modules() if isinstance(m, nn.BatchNorm2d))
    torch.testing.assert_close(norm.running_mean, other.running_mean)
    detector.train()
    norm.eval()  # as a stage does that freezes it
    detector(images, targets)
    assert int(norm.num_batches_tracked) == 1 and not norm.training and detector.roi_head.training


def test_first_pass_draws_no_dropout() -> None:
    """Random numbers are drawn for the selected RoIs alone, and the selection does not depend on them."""
    detector = built(VGGTail(32))
    images, targets = batch()
    asked: list[Tensor] = []
    detector.roi_head.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].detach().clone()))
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(detector(images, targets)["cls"].item())
    assert found[0] == found[1] != found[2]
    assert torch.equal(asked[1], asked[5])
    after = torch.get_rng_state()
    torch.manual_seed(1)
    detector.roi_head(asked[1], 2)
    assert torch.equal(torch.get_rng_state(), after)


# ---------------------------------------------------------------------------------------------- what it saves
def test_memory_is_that_of_the_selected_rois() -> None:
    detector = built(RoIMLP(512), OHEM(32, 0.7))
    images, targets = batch(1000)

    def step(losses: Any) -> None:
        torch.stack(list(losses(images, targets).values())).sum().backward()
        detector.zero_grad(set_to_none=True)

    peaks = []
    for losses in (detector, lambda *both: by_every_row(detector, *both)):
        with PeakMemory() as memory:
            step(losses)
        peaks.append(memory.bytes)
    assert peaks[0] < 0.6 * peaks[1], peaks


def test_masks_are_trained_on_the_selected_rois() -> None:
    spec = override(presets.mask_rcnn_mini, ["roi.sampler=OHEM(16, 0.7)"])
    torch.manual_seed(0)
    detector = spec.build(["a", "b"])
    size = torch.tensor([[96, 96]])
    images = Images(torch.randn(1, 3, 96, 96), size, torch.tensor([[1.0, 1, 0, 0]]), size)
    target = Target(torch.tensor([[10.0, 10, 70, 60]]), torch.tensor([0]), masks=Masks.of_dense(torch.ones(1, 96, 96)))
    losses = detector(images, Targets.pad([target]))
    assert {"cls", "box", "mask"} < losses.keys()
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
