"""Odd input for every public function that works on boxes, masks or scores: empty, extreme, of any dtype.

:func:`calls` has an entry for each of them, by ``module.name``: it takes :class:`Odd` arguments and returns the result.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import foveal.masks
import foveal.parts.losses
import foveal.parts.matching
import foveal.parts.pooling
from foveal.parts.coders import LTRB, Delta, GridCoder, ImageRelative
from foveal.types import Match, Priors, Targets

SINGLE = ("foveal.boxes", "foveal.parts.coders", "foveal.parts.distance_nms", "foveal.parts.postprocess",
          "foveal.parts.samplers")  # fmt: skip
FOLDERS = (foveal.parts.matching, foveal.parts.pooling, foveal.parts.losses, foveal.masks)
KINDS = ("float32", "float16", "bfloat16", "float64", "int64", "none", "no objects", "flat", "far", "default float64")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64, "int64": torch.int64}
CLASSES, SIDE, STRIDE, IMAGES = 3, 16, 4.0, 2
CANVAS = SIDE * STRIDE


def public() -> Iterator[tuple[str, Any]]:
    """``matching.iou.IoUMatcher`` and the function or concrete class, of every module in question."""
    names = [*SINGLE, *(f"{p.__name__}.{m.name}" for p in FOLDERS for m in pkgutil.iter_modules(p.__path__))]
    for name in names:
        module = importlib.import_module(name)
        for key, value in vars(module).items():
            own = getattr(value, "__module__", None) == name and not key.startswith("_")
            if own and (inspect.isfunction(value) or (inspect.isclass(value) and not inspect.isabstract(value))):
                yield f"{name.removeprefix('foveal.').removeprefix('parts.')}.{key}", value


@dataclass(frozen=True)
class Odd:
    """The arguments of one kind. Boxes are (IMAGES, n, 4); ``n`` is 0 for the kind "none"."""

    kind: str

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES.get(self.kind, torch.get_default_dtype())

    @property
    def n(self) -> int:
        return 0 if self.kind == "none" else 12

    def _rng(self) -> torch.Generator:
        return torch.Generator().manual_seed(3)

    def values(self, *shape: int, scale: float = 3.0) -> Tensor:
        """Logits, deltas or features, which learn where they can; large ones where the kind is "far"."""
        value = torch.randn(*shape, generator=self._rng(), dtype=torch.float64) * scale
        value = value * 1e4 if self.kind == "far" else value
        value = value.to(self.dtype)
        return value.requires_grad_() if value.is_floating_point() else value

    def boxes(self, n: int | None = None, seed: int = 0) -> Tensor:
        """(IMAGES, n, 4): with areas beyond float16, without area, or with coordinates of 1e20, by the kind."""
        n = self.n if n is None else n
        rng = torch.Generator().manual_seed(seed)
        center = torch.rand(IMAGES, n, 2, generator=rng, dtype=torch.float64) * CANVAS
        side = torch.rand(IMAGES, n, 2, generator=rng, dtype=torch.float64) * CANVAS / 2 + 1
        boxes = torch.cat([center - side / 2, center + side / 2], -1)
        if n and self.kind in ("float16", "bfloat16", "int64"):
            boxes[:, 0] = torch.tensor([0.0, 0.0, 1500.0, 1500.0])
        if n and self.kind == "flat":
            boxes[:, ::2, 2] = boxes[:, ::2, 0]
            boxes[:, 1::3, 3] = boxes[:, 1::3, 1]
        if n and self.kind == "far":
            boxes[:, 0] = torch.tensor([-1e20, -1e20, 1e20, 1e20])
            boxes[:, -1] = torch.tensor([1e20, 3.0, 1e20, 9.0])
            boxes[:, n // 2] = torch.tensor([3.0, 3.0, 1e20, 9.0])
        return boxes.to(self.dtype)

    def priors(self, *, grid: bool = False) -> Priors:
        """Cells of a map of 4 x 3; with the grid that YOLO's coder needs."""
        if self.n == 0:
            return Priors(self.boxes()[0], (0,), grid=torch.zeros(0, 5) if grid else None)
        y, x = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
        corner = torch.stack([x, y], -1).reshape(-1, 2) * 16
        boxes = torch.cat([corner, corner + 16], -1).to(self.dtype)
        own = torch.tensor([16.0, 16.0, CANVAS, 48.0, 1.0]).expand(12, 5) if grid else None
        return Priors(boxes if grid else torch.where(torch.arange(12)[:, None] % 5 > 0, boxes, self.boxes()[0]), (12,),
                      grid=own)  # fmt: skip

    def targets(self) -> Targets:
        n = 5 if self.n else 1
        valid = torch.ones(IMAGES, n, dtype=torch.bool)
        if self.kind in ("none", "no objects"):
            valid[:] = False
        boxes = torch.where(valid[..., None], self.boxes(n, seed=1), torch.zeros((), dtype=self.dtype))
        ignore = torch.zeros_like(valid)
        ignore[0, -1], valid[0, -1] = valid[0, -1].clone(), False
        return Targets(boxes, torch.arange(n).expand(IMAGES, n) % CLASSES, valid, ignore, bool(ignore.any()))

    def match(self) -> Match:
        positive = torch.arange(self.n).expand(IMAGES, -1) % 3 == 0
        if self.kind in ("none", "no objects"):
            positive = torch.zeros_like(positive)
        gt = torch.arange(self.n).expand(IMAGES, -1) % (5 if self.n else 1)
        return Match(gt, positive, torch.arange(self.n).expand(IMAGES, -1) % 4 == 3)

    @property
    def labels(self) -> Tensor:
        return torch.arange(self.n).expand(IMAGES, -1) % CLASSES

    @property
    def sampled(self) -> Tensor:
        return (~self.match().ignored).float()

    @property
    def features(self) -> Tensor:
        return self.values(IMAGES, 4, SIDE, SIDE, scale=1.0)

    def scores(self) -> Tensor:
        return torch.rand(IMAGES, self.n, CLASSES, generator=self._rng()).to(self.dtype)


Call = Callable[[Odd], Any]
PARTS: dict[str, Any] = {}  # made once from the classes themselves: those that need no arguments


def _matcher(w: Odd, matcher: Any, *, grid: bool = False) -> Any:
    outputs = (w.boxes(seed=2), w.scores()) if matcher.needs_outputs else None
    return matcher(w.priors(grid=grid), w.targets(), outputs)


def _suppressed(w: Odd, suppress: Any) -> Any:
    valid = torch.arange(w.n).expand(IMAGES, -1) != 2
    level = torch.zeros(w.n, dtype=torch.int64)
    return suppress(w.boxes(), w.scores()[..., 0], w.labels, level, valid)


def _run(w: Odd, run: Any) -> Any:
    valid = torch.ones(IMAGES, w.n, dtype=torch.bool)
    return run(w.boxes().float(), w.scores()[..., 0].float(), w.labels, valid, 0.5, min(7, w.n))


def _box_loss(w: Odd, loss: Any, *, grid: bool = False) -> list[Any]:
    objects = w.boxes(seed=1)
    coders: list[Any] = [GridCoder()] if grid else [Delta(), LTRB(), ImageRelative(), GridCoder()]
    results = []
    for coder in coders:
        priors = w.priors(grid=isinstance(coder, GridCoder)).places(IMAGES)
        results.append(_learned(loss(deltas := w.values(IMAGES, w.n, 4), priors, objects, coder), deltas))
    return results


def _class_loss(w: Odd, loss: Any) -> list[Any]:
    logits = w.values(IMAGES, w.n, loss.channels(CLASSES))
    return [_learned(loss(logits, w.labels, w.match().positive), logits), loss.scores(logits.detach())]


def _quality(w: Odd, quality: Any, columns: tuple[int, ...] = ()) -> list[Any]:
    raw, priors = w.values(IMAGES, w.n, *columns), w.priors(grid=True)
    boxes = w.boxes(seed=1) if quality.needs_boxes else None
    value = quality.loss(raw, boxes, priors, w.targets(), w.match(), w.sampled)
    return [_learned(value, raw), quality.scores(w.scores().float(), raw.detach().float())]


def _learned(value: Tensor, leaf: Tensor) -> list[Tensor]:
    """The value and the gradient of its sum."""
    if not leaf.requires_grad or not value.requires_grad:
        return [value]
    (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    return [value] if gradient is None else [value, gradient]


def _pool(w: Odd, pool: Any) -> list[Tensor]:
    features = w.features
    sizes = torch.tensor([[64, 64], [50, 60]])
    return _learned(pool([features], w.boxes(), [STRIDE], sizes), features)


def _masks(w: Odd) -> Any:
    from foveal.masks.rle import Masks

    bits = np.zeros((w.n, 20, 30), bool)
    bits[::2, 3:9, 4:11] = w.kind != "flat"
    return Masks.of_dense(bits)


def _mask_targets(w: Odd) -> Any:
    from foveal.masks.rle import pad_runs
    from foveal.masks.targets import mask_targets

    runs = pad_runs([_masks(w)] * IMAGES, max(1, w.n))
    assert runs is not None
    boxes = w.boxes()
    gt = torch.zeros(boxes.shape[:2], dtype=torch.int64)
    return mask_targets(torch.from_numpy(runs), gt, boxes, torch.tensor([[20, 30]] * IMAGES), (24, 32), 7)


def _all_of_masks(w: Odd) -> Any:
    masks = _masks(w)
    joined = masks.join([masks, masks], masks.size)
    parts = [masks.flipped(), masks.resized(7, 5), masks.window(-2, 3, 9, 9), masks.in_frame(0.5, 0.5, 1.0, 2.0)]
    counts = masks.of_counts(masks.counts(), masks.size)
    return [
        joined.area(),
        masks.extents(),
        masks.minus(masks.union()).area(),
        *(p.dense() for p in parts),
        counts.dense(),
    ]


def _coder(w: Odd, coder: Any) -> list[Tensor]:
    priors = w.priors(grid=isinstance(coder, GridCoder)).places(IMAGES)
    deltas = w.values(IMAGES, w.n, 4)
    return [coder.encode(w.boxes(seed=1), priors), *_learned(coder.decode(deltas, priors), deltas)]


def _sampler(w: Odd, sampler: Any) -> list[Tensor]:
    losses = w.values(IMAGES, w.n).detach().float().abs()
    rng = torch.Generator().manual_seed(0)
    return [sampler.sample(w.match(), w.priors(), losses, rng), *sampler.indices(w.match(), w.priors(), losses, rng)]


def _polygons(w: Odd) -> Any:
    from foveal.masks.polygons import rasterize

    corners = w.boxes()[0][:, [0, 1, 2, 1, 2, 3]].tolist()
    return rasterize([[corner] for corner in corners], (20, 30)).dense()


def _paste(w: Odd) -> Any:
    from foveal.masks.paste import paste

    return paste(torch.rand(w.n, 7, 7, generator=w._rng()).to(w.dtype), w.boxes()[0], (20, 30), 0.5).dense()


def calls() -> dict[str, Call]:
    """By the names of :func:`public`."""
    from foveal import boxes as b
    from foveal.masks import rle
    from foveal.parts import coders, distance_nms, postprocess, samplers
    from foveal.parts.losses import (
        box,
        centerness,
        classification,
        darknet_iou,
        gaussian,
        normalizers,
        objectness,
        sigmoid_kernel,
        svm,
        yolo,
    )
    from foveal.parts.matching import bipartite, cells, hungarian, iou, matcher, points
    from foveal.parts.pooling import roi_align, roi_align_cpu, spp, warp

    def learned_boxes(function: Any) -> Call:
        def call(w: Odd) -> Any:
            first = w.boxes()
            first = first.requires_grad_() if first.is_floating_point() else first
            return _learned(function(first, w.boxes(seed=1)), first)

        return call

    table: dict[str, Call] = {
        "boxes.computable": lambda w: b.computable(w.boxes()),
        "boxes.area": lambda w: b.area(w.boxes()),
        "boxes.array_iou": lambda w: b.array_iou(w.boxes()[0].double().numpy(), w.boxes(seed=1)[0].double().numpy()),
        **{f"boxes.{f.__name__}": learned_boxes(f) for f in (b.intersection, b.iou, b.pairwise_iou, b.pairwise_giou)},
        "coders.finite_areas": lambda w: coders.finite_areas(w.boxes()),
        "coders.at_least_fp32": lambda w: coders.at_least_fp32(w.boxes()),
        **{f"coders.{c.__name__}": lambda w, c=c: _coder(w, c()) for c in (Delta, LTRB, ImageRelative, GridCoder)},
        "distance_nms.DistanceNMS": lambda w: _suppressed(w, distance_nms.DistanceNMS()),
        "postprocess.NMS": lambda w: [_suppressed(w, postprocess.NMS(per=p)) for p in ("class", "level", "all")],
        "postprocess.NoNMS": lambda w: _suppressed(w, postprocess.NoNMS()),
        "postprocess.Candidates": lambda w: None,
        "postprocess.finite_scores": lambda w: postprocess.finite_scores(w.scores().float()),
        "postprocess.ranked": lambda w: postprocess.ranked(w.scores().flatten(1), lambda v: v.topk(min(2, w.n), 1)),
        "postprocess.top_values": lambda w: postprocess.top_values(w.scores().flatten(1), 5),
        "postprocess.Select": lambda w: [
            postprocess.Select(**options).candidates(w.scores(), (w.n,))
            for options in ({}, {"per_level": None}, {"per_level": None, "per_class": 4}, {"best_class": True})
        ] + [postprocess.Select(min_size=2.0).valid(w.boxes(), w.scores()[..., 0])],
        "postprocess.gather_boxes": lambda w: postprocess.gather_boxes(
            w.boxes(), w.scores()[..., 0], w.labels, w.labels, w.labels > 0
        ),
        "postprocess.suppress_on_cpu": lambda w: _run(w, postprocess.suppress_on_cpu),
        "postprocess.suppress_on_device": lambda w: _run(w, postprocess.suppress_on_device),
        **{f"samplers.{s.__name__}": lambda w, s=s: _sampler(w, s())
           for s in (samplers.All, samplers.Balanced, samplers.HardNegatives)},
        "samplers.OHEM": lambda w: _sampler(w, samplers.OHEM()),
        "matching.bipartite.BipartiteThenIoU": lambda w: [
            _matcher(w, bipartite.BipartiteThenIoU(first=first)) for first in ("bipartite", "best")
        ],
        "matching.cells.ShapeMatcher": lambda w: _matcher(w, cells.ShapeMatcher(also=0.3), grid=True),
        "matching.cells.Responsible": lambda w: _matcher(w, cells.Responsible(), grid=True),
        "matching.hungarian.Hungarian": lambda w: _matcher(w, hungarian.Hungarian()),
        "matching.hungarian.solve_assignment": lambda w: hungarian.solve_assignment(np.zeros((2, w.n, 3), np.float32)),
        "matching.iou.IoUMatcher": lambda w: _matcher(w, iou.IoUMatcher(0.5, 0.4, low_quality=True)),
        "matching.points.PointMatcher": lambda w: [_matcher(w, points.PointMatcher(radius=r)) for r in (1.5, None)],
        "matching.points.LocationGrid": lambda w: None,
        "matching.points.grids_of": lambda w: points.grids_of(w.priors().boxes, w.priors().counts),
        "matching.matcher.mask_invalid": lambda w: matcher.mask_invalid(w.priors(), w.targets()),
        "matching.matcher.finalize_match": lambda w: matcher.finalize_match(
            w.match().gt, w.match().positive, w.match().ignored, w.priors(), w.targets()
        ),
        "matching.matcher.without_priors": lambda w: matcher.without_priors(w.targets()),
        "matching.matcher.prior_chunk": lambda w: matcher.prior_chunk(torch.device("cpu"), max(1, w.n)),
        **{f"matching.matcher.{f.__name__}": lambda w, f=f: f(w.boxes()[0], w.targets().boxes)
           for f in (matcher.best_overlaps, matcher.match_on_cpu, matcher.match_on_device)},
        "matching.matcher.in_ignored_region": lambda w: matcher.in_ignored_region(w.priors().boxes, w.targets()),
        "pooling.roi_align.RoIAlign": lambda w: [
            _pool(w, roi_align.RoIAlign(size=3, ratio=r, aligned=a)) for r, a in ((2, False), (0, True))
        ],
        "pooling.roi_align.RoIPool": lambda w: _pool(w, roi_align.RoIPool(size=3)),
        "pooling.roi_align.CropResize": lambda w: _pool(w, roi_align.CropResize(size=3)),
        "pooling.roi_align.near_boxes": lambda w: roi_align.near_boxes([w.features], w.boxes(), [STRIDE]),
        "pooling.roi_align.with_image": lambda w: roi_align.with_image(w.boxes()),
        "pooling.roi_align.nearest_scale": lambda w: roi_align.nearest_scale(w.boxes(), [4.0, 8.0], 32),
        "pooling.roi_align.apply_pooled": lambda w: roi_align.apply_pooled(
            lambda x: x, roi_align.RoIAlign(size=3), [w.features], w.boxes(), [STRIDE]
        ),
        "pooling.roi_align.channels_last": lambda w: roi_align.channels_last(w.features),
        "pooling.roi_align_cpu.roi_align_cpu": lambda w: roi_align_cpu.roi_align_cpu(
            [w.features], w.boxes().float(), [0.25], None, 3, 2, False
        ),
        "pooling.roi_align_cpu.bag_rows": lambda w: roi_align_cpu.bag_rows(
            w.boxes().float().flatten(0, 1), torch.zeros(IMAGES * w.n, dtype=torch.int32), 16, 16, 0.25, 3, 2, False
        ),
        "pooling.spp.SPP": lambda w: [_pool(w, spp.SPP(levels=(2, 1), corners=c)) for c in ("paper", "code")],
        "pooling.warp.Warp": lambda w: [_pool(w, warp.Warp(size=9, context=2, mode=m)) for m in ("warp", "square")],
        **{f"losses.box.{loss.__name__}": lambda w, loss=loss: _box_loss(w, loss())
           for loss in (box.L1, box.SmoothL1, box.IoU, box.GIoU, box.DIoU, box.CIoU)},
        "losses.box.Sum": lambda w: _box_loss(w, box.Sum((box.L1(), box.GIoU()))),
        "losses.centerness.Centerness": lambda w: _quality(w, centerness.Centerness()),
        "losses.centerness.centerness": lambda w: centerness.centerness(w.priors().batched(IMAGES), w.boxes()),
        **{f"losses.classification.{loss.__name__}": lambda w, loss=loss: _class_loss(w, loss())
           for loss in (classification.CrossEntropy, classification.BinaryCrossEntropy,
                        classification.BalancedCrossEntropy, classification.Focal, classification.FocalStar,
                        classification.SquaredError)},
        "losses.classification.prior_bias": lambda w: classification.prior_bias(0.01),
        "losses.darknet_iou.DarknetIoU": lambda w: [
            _box_loss(w, darknet_iou.DarknetIoU(kind=k), grid=True) for k in ("iou", "giou", "diou", "ciou")
        ],
        "losses.gaussian.GaussianObjectness": lambda w: _quality(w, gaussian.GaussianObjectness(), (5,)),
        **{f"losses.normalizers.{n.__name__}": lambda w, n=n: n()(w.sampled, w.match().positive)
           for n in (normalizers.Sampled, normalizers.Positives, normalizers.PositivesPerImage, normalizers.PerImage,
                     normalizers.Fixed)},
        "losses.objectness.Objectness": lambda w: [
            _quality(w, objectness.Objectness(kind=k, target="iou", ignore=0.5, above=a))
            for k, a in (("cross-entropy", "ignored"), ("squared", "iou"), ("linear", "ignored"))
        ],
        "losses.objectness.largest_iou": lambda w: objectness.largest_iou(w.boxes(), w.targets()),
        "losses.sigmoid_kernel.SigmoidLossParams": lambda w: None,
        "losses.sigmoid_kernel.sigmoid_loss": lambda w: sigmoid_kernel.sigmoid_loss(
            w.values(IMAGES, w.n, CLASSES), w.labels, w.match().positive, sigmoid_kernel.SigmoidLossParams(power=2.0)
        ),
        "losses.svm.SoftmaxOrSVM": lambda w: _class_loss(w, svm.SoftmaxOrSVM()),
        "losses.yolo.YOLOBoxLoss": lambda w: _box_loss(w, yolo.YOLOBoxLoss(), grid=True),
        "masks.paste.paste": _paste,
        "masks.polygons.rasterize": _polygons,
        "masks.rle.Masks": _all_of_masks,
        "masks.rle.run_lengths": lambda w: rle.run_lengths(*_masks(w)[:1].flat(), 600),
        "masks.rle.ranges": lambda w: rle.ranges(np.arange(w.n), np.ones(w.n, np.int64)),
        "masks.rle.squeeze": lambda w: rle.squeeze(np.arange(w.n)) and None,
        "masks.rle.unsqueeze": lambda w: rle.unsqueeze(rle.squeeze(np.arange(w.n))),
        "masks.rle.pad_runs": lambda w: rle.pad_runs([_masks(w), None], max(1, w.n)),
        "masks.targets.mask_targets": _mask_targets,
    }  # fmt: skip
    return table


def arrays(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    """All numbers in a result."""
    if isinstance(value, Tensor):
        yield value.detach().double().numpy()
    elif isinstance(value, np.ndarray):
        yield value.astype(np.float64)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from arrays(each)
    elif value is not None and hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from arrays(getattr(value, name))


__all__ = ["KINDS", "Odd", "arrays", "calls", "public", "replace"]
