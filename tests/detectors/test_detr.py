"""DETR's parts: matching against brute force, positions and masks of the head, losses, augmentation."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal import presets
from foveal.boxes import pairwise_giou
from foveal.config.overrides import override
from foveal.data.augment.transforms import ResizedCrop, Sample, ShortSide
from foveal.data.loader.batches import collate, prepare
from foveal.errors import UsageError
from foveal.parts.coders import ImageRelative
from foveal.parts.heads.transformer import Attention, Transformer, image_part, sine_positions, spread_out
from foveal.parts.losses.classification import CrossEntropy
from foveal.parts.matching import hungarian
from foveal.parts.matching.hungarian import Hungarian, solve_assignment
from foveal.parts.postprocess import Select
from foveal.parts.priors.whole_image import WholeImage
from foveal.parts.resizing import Resize
from foveal.report.attention import attention_images, attention_maps
from foveal.types import Images, Match, Predictions, Priors, Target, Targets

SMALL = Transformer(queries=6, width=32, heads=4, encoder=1, decoder=3, hidden=32)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes(n: int, seed: int, side: float = 100.0) -> Tensor:
    corner = torch.rand(n, 2, generator=rng(seed)) * side
    return torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=rng(seed + 1)) * side], 1)


def whole(batch: int, queries: int, side: float = 200.0) -> Priors:
    return Priors(torch.tensor([0.0, 0, side, side]).expand(batch, queries, 4), (queries,))


def images(*sizes: tuple[int, int]) -> Images:
    canvas = (max(h for h, _ in sizes), max(w for _, w in sizes))
    pixels, size = torch.zeros(len(sizes), 3, *canvas), torch.tensor(sizes)
    for i, (h, w) in enumerate(sizes):
        pixels[i, :, :h, :w] = torch.randn(3, h, w, generator=rng(i))
    return Images(pixels, size, torch.tensor([[1.0, 1, 0, 0]] * len(sizes)), size)


# ---------------------------------------------------------------------------------------------- matching
@pytest.mark.parametrize(("queries", "objects"), [(1, 1), (5, 1), (5, 3), (6, 6), (3, 5), (2, 6), (7, 0)])
def test_matching_cost_is_optimal(queries: int, objects: int) -> None:
    for seed in range(10):
        found, truth = boxes(queries, seed), boxes(objects, seed + 50)
        scores = torch.rand(queries, 4, generator=rng(seed)).softmax(-1)
        labels = torch.randint(4, (objects,), generator=rng(seed))
        targets = Targets.pad([Target(truth, labels), Target(boxes(2, 9), torch.tensor([0, 1]))])
        stacked = (torch.stack([found, found]), torch.stack([scores, scores]))
        matcher, priors = Hungarian(), whole(2, queries)
        match = matcher(priors, targets, stacked)
        cost = matcher.costs(priors, targets, stacked)[0, :, :objects].double()
        number = min(queries, objects)
        pairs = match.positive[0].nonzero()[:, 0]
        chosen = match.gt[0, pairs]
        assert len(pairs) == number == len(set(chosen.tolist())) and not match.ignored.any()
        every = (
            sum(float(cost[q, g]) for q, g in zip(some, order, strict=True))
            for some in itertools.combinations(range(queries), number)
            for order in itertools.permutations(range(objects), number)
        )
        assert float(cost[pairs, chosen].sum()) == pytest.approx(min(every), abs=1e-6)


def test_a_hundred_objects() -> None:
    """Every object equals the box of a query: with the cost 5 L1 - 2 GIoU that assignment is optimal."""
    truth, order = boxes(100, 3), torch.randperm(100, generator=rng())
    targets = Targets.pad([Target(truth, torch.zeros(100, dtype=torch.int64))])
    match = Hungarian()(whole(1, 100), targets, (truth[order][None], torch.full((1, 100, 1), 0.5)))
    assert match.positive.all() and torch.equal(match.gt[0], order)


def test_the_cost_of_a_pair_by_hand() -> None:
    """Image 200 x 200. Query (0, 0, 100, 100), object (50, 0, 150, 100): in relative coordinates centers .25, .25
    and .5, .25, sides .5: L1 .25. Intersection 5,000, union 15,000, hull 15,000: IoU = GIoU = 1/3. With p = .6:
    -.6 + 5 x .25 - 2/3 = -.0166667."""
    found, truth = torch.tensor([[[0.0, 0, 100, 100]]]), torch.tensor([[50.0, 0, 150, 100]])
    targets = Targets.pad([Target(truth, torch.tensor([1]))])
    cost = Hungarian().costs(whole(1, 1), targets, (found, torch.tensor([[[0.4, 0.6]]])))
    assert cost.item() == pytest.approx(-0.6 + 1.25 - 2 / 3, abs=1e-6)
    # far apart: hull 400 x 10 = 4,000, union 200: GIoU = -(4,000 - 200) / 4,000
    a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[390.0, 0, 400, 10]])
    assert pairwise_giou(a, b).item() == pytest.approx(-0.95)


def test_nonfinite_costs_and_padding_objects() -> None:
    found = boxes(4, 0)[None].repeat(2, 1, 1)
    found[0, :3] = torch.nan
    targets = Targets.pad(
        [Target(boxes(2, 5), torch.zeros(2).long()), Target(torch.zeros(0, 4), torch.zeros(0).long())]
    )
    match = Hungarian()(whole(2, 4), targets, (found, torch.full((2, 4, 1), 0.5)))
    assert match.positive[0].sum() == 2 and match.positive[0, 3] and not match.positive[1].any()


def test_a_query_in_an_ignored_region_is_ignored() -> None:
    """By its predicted box, not by its prior, which is the whole image."""
    region = Target(torch.tensor([[0.0, 0, 60, 60]]), torch.tensor([0]), ignore=torch.tensor([True]))
    found = torch.tensor([[[5.0, 5, 50, 50], [100, 100, 150, 150]]])
    match = Hungarian()(whole(1, 2), Targets.pad([region]), (found, torch.full((1, 2, 1), 0.5)))
    assert match.ignored.tolist() == [[True, False]] and not match.positive.any()


def test_all_layers_are_matched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One solver call, so one transfer, an iteration; each layer's match equals the one it gets alone."""
    calls = []

    def counted(cost: Any) -> Any:
        calls.append(cost.shape)
        return solve_assignment(cost)

    monkeypatch.setattr(hungarian, "solve_assignment", counted)
    torch.manual_seed(0)
    detector = replace(presets.detr_mini, head=SMALL).build(["a", "b"])
    batch = images((64, 96), (80, 64))
    targets = Targets.pad(
        [Target(boxes(3, 1, 40), torch.tensor([0, 1, 1])), Target(boxes(1, 4, 30), torch.tensor([0]))]
    )
    detector(batch, targets)
    assert calls == [(3 * 2, 6, 3)]
    outputs = detector.outputs(batch)
    together = detector.task.matches(outputs.layers, outputs.priors, targets)
    for layer, match in zip(outputs.layers, together, strict=True):
        alone = detector.task.match(layer, outputs.priors, targets)
        assert torch.equal(alone.gt, match.gt) and torch.equal(alone.positive, match.positive)


def test_chunks_of_a_match() -> None:
    gt = torch.arange(8).view(4, 2)
    match = Match(gt, gt > 3, gt > 9, extra_objects=(gt + 1, gt > 5))
    one, two = match.chunk(2)
    assert torch.equal(torch.cat([one.gt, two.gt]), gt) and two.positive.all() and not one.positive.any()
    assert two.extra_objects is not None and torch.equal(two.extra_objects[0], gt[2:] + 1)


# -------------------------------------------------------------------------------------------------- losses
def test_background_weight_matches_torch_weighted_mean() -> None:
    logits = torch.randn(2, 5, 4, generator=rng())
    labels = torch.randint(3, (2, 5), generator=rng())
    positive = torch.rand(2, 5, generator=rng(1)) < 0.4
    task = replace(presets.detr_r50.task, box_loss=replace(presets.detr_r50.task.box_loss, weight=0.0))
    gt = torch.arange(5).expand(2, -1)
    targets = Targets(boxes(10, 0).view(2, 5, 4), labels, positive, torch.zeros_like(positive))
    found = task.losses(
        Predictions(logits, torch.full((2, 5, 4), 0.5)), whole(2, 5), targets,
        match=Match(gt, positive, torch.zeros_like(positive)),
    )  # fmt: skip
    wanted = torch.where(positive, labels, 3).flatten()
    expected = F.cross_entropy(logits.flatten(0, 1), wanted, torch.tensor([1.0, 1, 1, 0.1]))
    torch.testing.assert_close(found["cls"], expected)
    assert CrossEntropy().prior_weight(positive) is None
    with pytest.raises(UsageError, match="more than 0"):
        CrossEntropy(background_weight=0.0)


def test_the_best_class_of_each_query() -> None:
    scores = torch.tensor([[[0.1, 0.6, 0.2], [0.7, 0.65, 0.0], [0.05, 0.0, 0.06]]])
    found = Select(score=0.0, best_class=True).candidates(scores, (3,))
    assert found.priors.tolist() == [[1, 0, 2]] and found.labels.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(found.values, torch.tensor([[0.7, 0.6, 0.06]]))
    with pytest.raises(UsageError, match="exclude"):
        Select(per_level=None, per_class=5, best_class=True)


def test_priors_cover_the_image_without_padding() -> None:
    priors = WholeImage(3)(images((40, 60), (80, 20)), [], ())
    assert priors.boxes.tolist() == [[[0, 0, 60, 40]] * 3, [[0, 0, 20, 80]] * 3] and priors.counts == (3,)


def test_coder_scales_with_the_image() -> None:
    """A box on an image twice as large and shifted has the same four coordinates."""
    box, frame = torch.tensor([10.0, 20, 50, 40]), torch.tensor([0.0, 0, 100, 80])
    first = ImageRelative().encode(box, frame)
    torch.testing.assert_close(ImageRelative().encode(2 * box + 7, 2 * frame + 7), first)


# --------------------------------------------------------------------------------------------------- head
def test_mask_of_the_map_inside_the_image() -> None:
    """As ``F.interpolate`` samples the mask of the canvas, also for sizes that are not multiples."""
    for canvas, sizes, cells in (((100, 133), (71, 133), (4, 5)), ((800, 1066), (640, 1013), (25, 34))):
        batch = Images(
            torch.empty(1, 3, *canvas, device="meta"), torch.tensor([sizes]), torch.zeros(1, 4), torch.zeros(1, 2)
        )
        mask = torch.zeros(1, 1, *canvas)
        mask[..., : sizes[0], : sizes[1]] = 1
        want = F.interpolate(mask, size=cells)[0, 0].bool()
        rows, columns = image_part(batch, *cells)
        assert torch.equal(rows[0][:, None] & columns[0], want)


def test_sine_positions_by_hand() -> None:
    """Two of three rows are in the image: y is 1/2 and 1 of a period. Four channels an axis: wavelengths 1 and 100."""
    rows, columns = torch.tensor([[True, True, False]]), torch.tensor([[True]])
    found = sine_positions(rows, columns, 8)[0]
    for i, y in enumerate((math.pi, 2 * math.pi)):
        want = [math.sin(y), math.cos(y), math.sin(y / 100), math.cos(y / 100)]
        want += [math.sin(2 * math.pi), 1.0, math.sin(2 * math.pi / 100), math.cos(2 * math.pi / 100)]
        torch.testing.assert_close(found[i], torch.tensor(want), rtol=0, atol=1e-5)


def test_attention_matches_the_torch_layer() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(32, 4, 0.0), nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    q, k, v = (torch.randn(2, n, 32, generator=rng(i)) for i, n in enumerate((5, 7, 7)))
    mask = torch.rand(2, 7, generator=rng()) < 0.7
    mask[:, 0] = True
    wanted, weights = theirs(q, k, v, key_padding_mask=~mask)
    torch.testing.assert_close(ours(q, k, v, mask[:, None, None]), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.weights(q, k, mask[:, None, None]).mean(1), weights, rtol=1e-5, atol=1e-6)
    wanted, _ = theirs(k, k, v)
    torch.testing.assert_close(ours(k, k, v), wanted, rtol=1e-5, atol=1e-5)


def test_padding_only_affects_the_backbone() -> None:
    """An image alone in its batch has no mask; in a batch padded to its own size it gets one. The outputs are equal."""
    torch.manual_seed(0)
    detector = replace(presets.detr_mini, head=SMALL).build(["a", "b"]).eval()
    batch = images((64, 96), (48, 64))
    with torch.no_grad():
        pair = detector.outputs(batch).layers[-1]
        first = Images(batch.pixels[:1], batch.sizes[:1], batch.frame[:1], batch.original[:1])
        alone = detector.outputs(first).layers[-1]
    torch.testing.assert_close(alone.logits[0], pair.logits[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone.deltas[0], pair.deltas[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("anchored", [False, True])
def test_attention_maps(anchored: bool) -> None:
    torch.manual_seed(0)
    detector = replace(presets.detr_mini, head=replace(SMALL, anchored=anchored)).build(["a", "b"]).eval()
    batch = images((64, 96), (48, 96))
    maps, outputs = attention_maps(detector, batch)
    h, w = outputs.features[-1].shape[-2:]
    assert maps.shape == (2, 6, h, w) and (h, w) == (4, 6)
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 6))
    assert (maps >= 0).all() and (maps[1, :, 3:] == 0).all() and (maps[0, :, 3:] > 0).all()
    assert not detector.head.decoder.layers[-1].multihead_attn._forward_pre_hooks
    with pytest.raises(UsageError, match="no queries"):
        attention_maps(presets.retinanet_mini.build("ab"), batch)


def test_attention_images() -> None:
    """One for each confident query; attended regions are as bright as the image, the others darker."""
    torch.manual_seed(0)
    detector = replace(presets.detr_mini, head=SMALL, input=Resize(64, 96, multiple=1)).build(["a", "b"]).eval()
    gray = np.full((40, 60, 3), 200, np.uint8)
    overlays = attention_images(detector, gray, score=0.0)
    assert len(overlays) == 6 and all(overlay.size == (60, 40) for overlay in overlays)
    maps, outputs = attention_maps(detector, detector.prepare([gray]))
    first = int(CrossEntropy(background=True).scores(outputs.layers[-1].logits)[0].amax(-1).argmax())
    y, x = divmod(int(maps[0, first].argmax()), maps.shape[-1])
    light = np.asarray(overlays[0]).max(2)
    place = light[
        y * 40 // maps.shape[2] : (y + 1) * 40 // maps.shape[2], x * 60 // maps.shape[3] : (x + 1) * 60 // maps.shape[3]
    ]
    assert place.max() >= 195 and np.median(light) < 200
    assert attention_images(detector, gray, score=1.1) == []


def test_anchored_queries_are_spread_and_attend_locally() -> None:
    points = spread_out(25)
    gaps = torch.cdist(points, points).fill_diagonal_(9).min(1).values
    assert ((points > 0) & (points < 1)).all() and gaps.min() > 0.1  # a grid of 25 has .2
    torch.manual_seed(0)
    spec = override(presets.detr_mini, ["head.anchored=True", "head.turns=4", "head.temperature=20"])
    detector = spec.build(["a", "b"]).eval()
    maps, outputs = attention_maps(detector, images((160, 160)), layer=0)
    h, w = maps.shape[2:]
    y, x = torch.meshgrid((torch.arange(h) + 1.0) / h, (torch.arange(w) + 1.0) / w, indexing="ij")
    stand = detector.head.anchors.detach().sigmoid()
    away = (y - stand[:, 0, None, None]).square() + (x - stand[:, 1, None, None]).square()
    spread = (maps[0] * away).sum((1, 2)).mean()
    assert spread < 0.8 * away.mean((1, 2)).mean()
    assert outputs.layers[0].deltas[0, :, :2].flip(1).sub(stand).abs().mean() < 0.1


def test_invalid_architectures_are_rejected() -> None:
    for change in ({"width": 30}, {"queries": 0}, {"dropout": 1.0}, {"turns": 0.0}):
        with pytest.raises(UsageError):
            replace(SMALL, **change)
    with pytest.raises(UsageError, match="weights"):
        Hungarian(cls=0, l1=0, giou=0)


# -------------------------------------------------------------------------------------------- augmentation
def make_sample(height: int, width: int) -> Sample:
    image = np.zeros((height, width, 3), np.uint8)
    return Sample(image, np.array([[10.0, 20, 200, 220]]), np.zeros(1, np.int64), np.zeros(1, np.bool_))


def test_each_image_has_its_own_short_side() -> None:
    recipe, rule = [ShortSide((64, 96, 128))], Resize(800, 150, multiple=1)
    batch = [prepare(make_sample(300, 400), recipe, np.random.default_rng(s)) for s in range(12)]
    found, _ = collate(batch, rule)
    assert set(map(tuple, found.sizes.tolist())) == {(64, 85), (96, 128), (112, 150)}  # 128 x 170 would pass 150
    assert tuple(found.pixels.shape[2:]) == (112, 150)


def test_crop_sizes_match_detr() -> None:
    """Of 480 x 640 at short sides 400, 500, 600: windows of 384 to 600 pixels of that size."""
    for seed in range(60):
        before = make_sample(480, 640)
        after = ResizedCrop(p=1.0)(before, np.random.default_rng(seed))
        h, w = after.canvas
        assert any(
            round(h * s / 480) + 1 >= 384 and round(h * s / 480) - 1 <= min(s, 600)
            and round(w * s / 480) + 1 >= 384 and round(w * s / 480) - 1 <= 600
            for s in (400, 500, 600)
        )  # fmt: skip
        assert not after.ignore.any()
    assert ResizedCrop(p=0.0)(before, np.random.default_rng(0)) is before


def test_the_earlier_path_of_attention_maps_warns() -> None:
    from foveal.detectors import detr

    with pytest.warns(DeprecationWarning, match=r"foveal\.report\.attention\.attention_maps"):
        assert detr.attention_maps is attention_maps
    with pytest.raises(AttributeError, match="nonsense"):
        detr.nonsense  # noqa: B018
