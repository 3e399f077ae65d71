"""Closed-form stages: SVMs and ridge regression on stored features, written into the head's last layers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from ...assembly.two_stage import TwoStage
from ...data.augment.transforms import HorizontalFlip
from ...errors import FovealError, UsageError
from ...parts.heads.rcnn import RCNNHeadLayers
from ...parts.losses.svm import SoftmaxOrSVM
from ...recipe import SVM, OnStoredMaps, OnWindows, Recipe, Ridge, Solve
from ...runtime.progress import Console
from .cache_maps import FOLDER as MAPS
from .cache_maps import check_maps
from .feature_rows import LinearFit
from .features import Extraction, FeatureStore
from .ridge import fit_ridge
from .svm import fit_svms

if TYPE_CHECKING:
    from ...assembly.detector import Detector

FOLDER = "features"


def check_stages(detector: Detector, fit: Recipe) -> None:
    """Raises :class:`UsageError` where a stage learns from, or fits, something that this detector does not have."""
    windows = any(isinstance(stage, OnWindows | OnStoredMaps) for stage in fit.stages)
    if windows and (len(fit.augment) > 1 or not all(isinstance(t, HorizontalFlip) for t in fit.augment)):
        raise UsageError("fit.augment: windows can be mirrored, nothing else", fix="Use HorizontalFlip() alone")
    if windows and fit.repeat_threshold:
        raise UsageError("fit.repeat_threshold repeats images, and windows are drawn one by one", fix="Set it to 0")
    for stage in fit.stages:
        if isinstance(stage, OnStoredMaps):
            check_maps(detector, stage)
        elif isinstance(stage, OnWindows) and (detector.spec.pool is None or not detector.spec.pool.crops):
            raise UsageError("fit.stages: OnWindows needs a detector that pools crops of the image", fix="Use RCNN")
    solvers = [stage.solver for stage in fit.stages if isinstance(stage, Solve)]
    if not solvers:
        return
    if not isinstance(detector, TwoStage) or not isinstance(detector.roi_head, RCNNHeadLayers):
        raise UsageError("fit.stages: SVM and Ridge fit the head of R-CNN and SPP-Net", fix="Use head=RCNNHead()")
    if any(isinstance(s, SVM) for s in solvers) and not isinstance(detector.roi.cls_loss, SoftmaxOrSVM):
        raise UsageError(
            "fit.stages: SVM needs a class layer whose outputs are margins", fix="Set roi.cls_loss=SoftmaxOrSVM()"
        )


def smallest_iou(fit: Recipe) -> float:
    """The smallest overlap with an object at which a stage uses the box layer's features of a proposal."""
    solvers = (stage.solver for stage in fit.stages if isinstance(stage, Solve))
    return min((solver.iou for solver in solvers if isinstance(solver, Ridge)), default=1.0)


def fit_layer(
    solver: SVM | Ridge, extraction: Extraction, out: Path, console: Console, check: Callable[[], None]
) -> None:
    """Stores the missing features, fits a layer to them, and writes its weights. ``check`` may raise after every image.

    Interrupted anywhere, the next call continues with the next image and ends with the same weights. Raises
    :class:`FovealError` where no class has anything to learn from.
    """
    detector, dataset = extraction.detector, extraction.dataset
    classes = detector.classes
    store = FeatureStore(out / FOLDER, len(dataset), len(classes))
    name = type(solver).__name__
    console.print(f"{name}: uses the features of {len(dataset)} images, stored in {store.folder}")

    on_progress = console.task("features")

    def step(done: int, total: int) -> None:
        check()
        on_progress(done, total)

    skipped = extraction(store, step)
    console.print_once(f"warning: image skipped: {message}" for message in skipped.values())
    head = cast(RCNNHeadLayers, detector.roi_head)
    if isinstance(solver, SVM):
        console.print(f"SVM: {len(classes)} classes, one pass of hard negative mining")
        layer = fit_svms(solver, store.images_of("classes"), len(classes))
        missing, effect = "no object, or no window without one,", "it will never be detected"
    else:
        console.print(f"Ridge: box regression of {len(classes)} classes")
        layer = fit_ridge(solver, store.images_of("boxes"), len(classes), detector.roi.coder)
        missing, effect = f"no proposal that overlaps an object by more than {solver.iou}", "its boxes are not refined"
    if len(layer.without) == len(classes):
        raise FovealError(
            f"{name}: no class has anything to learn from: the training set has {missing}",
            path=dataset.path,
            fix="Measure the recall of the proposals with `foveal proposals`, or leave this stage out of fit.stages",
        )
    for label in layer.without:
        console.print(f"warning: {name}: the training set has {missing} for class {classes[label]!r}; {effect}")
    if isinstance(solver, SVM):
        write_svms(head.predictor.cls_score, layer)
    else:
        write_layer(head.predictor.bbox_pred, layer)


def remove_features(out: Path) -> None:
    """Removes the stored maps and features of a run that has ended."""
    for folder in (FOLDER, MAPS):
        shutil.rmtree(out / folder, ignore_errors=True)


@torch.no_grad()
def write_svms(linear: nn.Linear, layer: LinearFit) -> None:
    """Writes margins into the rows of the classes, zero into that of the background (:class:`SoftmaxOrSVM`)."""
    linear.weight.zero_()
    linear.bias.zero_()
    linear.weight[:-1] = torch.from_numpy(layer.weight).to(linear.weight)
    linear.bias[:-1] = torch.from_numpy(layer.bias).to(linear.bias)


@torch.no_grad()
def write_layer(linear: nn.Linear, layer: LinearFit) -> None:
    linear.weight.copy_(torch.from_numpy(layer.weight))
    linear.bias.copy_(torch.from_numpy(layer.bias))
