"""The data of an inspection page: what one traced image decided, as values that JSON can hold.

Numbers that the page computes with are exact: boxes and scores of candidates are float32 in base64. Anchors are not
stored: a level of them is a grid of cells and the boxes of one cell. Score maps are gray PNG images.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..assembly.trace import tracing
from ..files.pages import data_uri
from ..parts.distance_nms import DistanceNMS
from ..parts.postprocess import NMS
from ..types import Priors
from .reasons import REASON_TEXTS, Fates, Reason, fates_of
from .traced import TracedImage, TracedStage

CANDIDATES = 2000  # in the page at least, if there are as many: the valid ones, then others by falling score
SHOWN = 1500  # priors of a kind that the page draws
TILES = 100  # classes with a score map of their own
TITLES = {"task": "Detection", "rpn": "Proposals", "roi": "Second stage"}


def packed(values: NDArray[Any] | Tensor, kind: str) -> str:
    """Numbers in base64; ``kind``: NumPy's letter and bytes, as ``<f4``."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return base64.b64encode(np.ascontiguousarray(array, dtype=np.dtype(kind)).tobytes()).decode()


def stage_payload(stage: TracedStage, traced: TracedImage) -> dict[str, Any]:
    """One stage: its priors, assignment, score maps, candidates and settings."""
    priors, levels = stage.selection.priors, levels_of(stage.selection.priors)
    select, suppress = stage.task.select, stage.task.suppress
    fates, counts = stage.fates, stage.fates.count()
    rule = suppress if isinstance(suppress, NMS | DistanceNMS) else None
    return {
        "name": stage.name,
        "title": TITLES[stage.name],
        "classes": ["object"] if stage.name == "rpn" else list(traced.classes),
        "priors": int(priors.boxes.shape[-2]),
        "kind": _kind(stage, levels),
        "levels": levels,
        "boxes": None if levels else packed(priors.batched(1)[0], "<f4"),
        "total": sum(counts.values()),
        "reasons": {REASON_TEXTS[r]: n for r, n in counts.items() if n or r in (Reason.KEPT, Reason.SCORE)},
        "settings": {
            "score": select.score if select.score > 0 else None,
            "level": select.per_level,
            "class": select.per_class,
            "size": select.min_size,
            "top": suppress.top,
            "rule": type(suppress).__name__,
            "iou": None if rule is None else rule.iou,
            "per": "all" if rule is None else rule.per,
            "exponent": rule.exponent if isinstance(rule, DistanceNMS) else None,
        },
        "candidates": _candidates(stage),
        "maps": _maps(levels, fates) if levels else [],
        "match": _match(stage),
    }


def _kind(stage: TracedStage, levels: list[dict[str, Any]]) -> str:
    if stage.name == "roi":
        return "proposals"
    if not levels:
        return "queries"
    return "cells" if stage.selection.priors.grid is not None else "anchors"


# ------------------------------------------------------------------------------------------------ priors
def levels_of(priors: Priors) -> list[dict[str, Any]]:
    """Each level as a grid: cells down and across, the center of the first, the steps, and the boxes of one cell
    relative to its center. Empty where the priors are no grid (proposals, queries)."""
    if priors.boxes.dim() == 3:
        return []
    levels, start = [], 0
    for count in priors.counts:
        boxes = priors.boxes[start : start + count].double().cpu().numpy()
        grid = _grid(boxes)
        if grid is None:
            return []
        levels.append({"start": start, "count": count, **grid})
        start += count
    return levels


def _grid(boxes: NDArray[np.float64]) -> dict[str, Any] | None:
    """A grid of (n, 4) boxes, row by row, cell by cell, or None where they are none."""
    center = np.round((boxes[:, :2] + boxes[:, 2:]) / 2, 2)
    x, y = np.unique(center[:, 0]), np.unique(center[:, 1])
    per = len(boxes) // (len(x) * len(y))
    if not per or per * len(x) * len(y) != len(boxes):
        return None
    step = [float((v[-1] - v[0]) / (len(v) - 1)) if len(v) > 1 else 0.0 for v in (x, y)]
    cell = boxes[:per] - np.tile(center[0], 2)
    rows, columns = np.meshgrid(np.arange(len(y)), np.arange(len(x)), indexing="ij")
    at = center[0] + np.stack([columns * step[0], rows * step[1]], -1).reshape(-1, 1, 2)
    if np.abs(np.tile(at, 2) + cell - boxes.reshape(-1, per, 4)).max() > 0.5:
        return None
    if not step[0] or not step[1]:
        step = [max(step) or float(boxes[0, 2] - boxes[0, 0])] * 2
    return {"h": len(y), "w": len(x), "per": per, "x": float(center[0, 0]), "y": float(center[0, 1]),
            "dx": step[0], "dy": step[1], "cell": np.round(cell, 2).tolist()}  # fmt: skip


def _match(stage: TracedStage) -> dict[str, Any] | None:
    """The priors of the training side: positive, ignored and sampled negative ones, at most SHOWN of each drawn."""
    sampling = stage.sampling
    if sampling is None:
        return None
    match, sample = sampling.match, sampling.sample[0].cpu().numpy() > 0
    positive, ignored = match.positive[0].cpu().numpy(), match.ignored[0].cpu().numpy()
    valid = np.ones_like(positive) if sampling.priors.valid is None else sampling.priors.valid[0].cpu().numpy()
    boxes, gt = sampling.priors.batched(1)[0].float().cpu().numpy(), match.gt[0].cpu().numpy()
    negative = ~positive & ~ignored
    keeps_all = bool(sample[negative].all()) if negative.any() else True
    rows = np.flatnonzero(positive & valid)[:SHOWN]
    out = {
        "counts": {
            "positive": int(positive.sum()),
            "negative": int(negative.sum()),
            "ignored": int((ignored & valid).sum()),
            "sampled positive": int((sample & positive).sum()),
            "sampled negative": int((sample & negative).sum()),
        },
        "all": keeps_all,
        "sampler": type(stage.task.sampler).__name__,
        "positive": {"box": packed(boxes[rows], "<f4"), "gt": gt[rows].tolist(), "sampled": sample[rows].tolist()},
    }
    for name, flags in (("ignored", ignored & valid), ("negative", negative & sample if not keeps_all else None)):
        some = np.zeros(0, np.int64) if flags is None else np.flatnonzero(flags)
        some = some[np.linspace(0, len(some) - 1, min(len(some), SHOWN)).astype(np.int64)]
        out[name] = packed(boxes[some], "<f4")
    return out


# -------------------------------------------------------------------------------------------- candidates
def _candidates(stage: TracedStage) -> dict[str, Any]:
    """The pairs that the page's own selection and NMS work on: every pair above ``floor``, in their order."""
    fates = _wide(stage)
    valid = np.isin(fates.reason, (Reason.KEPT, Reason.NMS, Reason.TOP))
    finite = np.isfinite(fates.box).all(1) & np.isfinite(fates.score)
    order = np.argsort(-np.where(finite, fates.score, -np.inf), kind="stable")
    number = min(int(finite.sum()), max(CANDIDATES, int(valid.sum())))
    lowest = fates.score[order[number - 1]] if number else np.float32(0)
    if number and valid.any():
        lowest = min(lowest, fates.score[valid].min())
    rows = np.flatnonzero(finite & (fates.score >= lowest))
    position = np.full(len(fates.score), -1)
    position[rows] = np.arange(len(rows))
    same = {(int(a), int(c)): i for i, (a, c) in enumerate(zip(fates.prior[rows], fates.label[rows], strict=True))}
    own = stage.fates
    kept = [same[int(own.prior[k]), int(own.label[k])] for k in own.kept]
    whole = number == int(finite.sum())
    return {
        "n": len(rows),
        "box": packed(fates.box[rows], "<f4"),
        "score": packed(fates.score[rows], "<f4"),
        "label": packed(fates.label[rows], "<u2"),
        "level": packed(fates.level[rows], "<u1"),
        "prior": packed(fates.prior[rows], "<u4"),
        "floor": 0.0 if whole and not len(rows) else float(np.nextafter(lowest, np.float32(-np.inf))),
        "kept": kept,
    }


def _wide(stage: TracedStage) -> Fates:
    """The fates of the stage; where its selection is by score alone, of one with a lower threshold."""
    select, scores = stage.task.select, stage.fates.scores
    if select.per_level is not None or select.per_class is not None:
        return stage.fates
    ranked = np.sort(scores[np.isfinite(scores)])[::-1]
    floor = float(ranked[min(CANDIDATES, len(ranked)) - 1]) if len(ranked) else 0.0
    task = replace(stage.task, select=replace(select, score=min(select.score, floor)))
    with torch.no_grad(), tracing() as trace:
        task.detect(stage.selection.predictions, stage.selection.priors, stage.selection.images)
    return fates_of(task, trace.selections[0])


# ------------------------------------------------------------------------------------------------ images
def _maps(levels: list[dict[str, Any]], fates: Fates) -> list[dict[str, Any]]:
    """Of each level an image of tiles: the best score of each cell, of any class and then of single classes."""
    classes = fates.scores.shape[1]
    shown = np.arange(classes)
    if classes > TILES:
        shown = np.sort(np.argsort(-np.nan_to_num(fates.scores).max(0), kind="stable")[:TILES])
    out = []
    for level in levels:
        rows = slice(level["start"], level["start"] + level["count"])
        best = np.nan_to_num(fates.scores[rows]).reshape(level["h"], level["w"], level["per"], classes).max(2)
        tiles = [best.max(2), *(best[..., c] for c in shown)] if classes > 1 else [best[..., 0]]
        out.append({"src": _atlas(tiles), "columns": _columns(len(tiles)), "best": float(best.max()),
                    "classes": [-1, *shown.tolist()] if classes > 1 else [0]})  # fmt: skip
    return out


def _columns(tiles: int) -> int:
    return int(np.ceil(np.sqrt(tiles)))


def _atlas(tiles: list[NDArray[np.float32]]) -> str:
    """Tiles in rows as one gray PNG; a value is the square root of a score, so that low ones can be told apart."""
    columns = _columns(len(tiles))
    h, w = tiles[0].shape
    sheet = np.zeros((-(-len(tiles) // columns) * h, columns * w), np.uint8)
    for i, tile in enumerate(tiles):
        y, x = divmod(i, columns)
        sheet[y * h : (y + 1) * h, x * w : (x + 1) * w] = np.round(255 * np.sqrt(np.clip(tile, 0, 1)))
    return data_uri(Image.fromarray(sheet), "png")


def attention_payload(maps: NDArray[np.float32], rows: list[int]) -> dict[str, Any]:
    """The attention of the queries ``rows``: tiles as those of scores, each relative to its largest weight."""
    tiles = [maps[q] / max(float(maps[q].max()), 1e-9) for q in rows]
    return {"h": maps.shape[1], "w": maps.shape[2], "queries": rows, "columns": _columns(max(1, len(rows))),
            "src": _atlas(tiles) if rows else None}  # fmt: skip
