"""A stage that is solved, not descended: features are stored, then SVMs or ridge regressions become weights."""

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
from ...recipe import SVM, Recipe, Ridge
from ...runtime.progress import Progress
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
    """Raises :class:`UsageError` where stages look at, or solve, something that this detector does not have."""
    drawn = any(stage.inputs in ("windows", "maps") for stage in fit.stages)
    if drawn and (len(fit.augment) > 1 or not all(isinstance(t, HorizontalFlip) for t in fit.augment)):
        raise UsageError("fit.augment: windows are mirrored, and nothing else", fix="Use HorizontalFlip() alone")
    for stage in fit.stages:
        if stage.inputs == "maps":
            check_maps(detector, stage)
        elif stage.inputs == "windows" and (detector.spec.pool is None or not detector.spec.pool.crops):
            raise UsageError('fit.stages: inputs="windows" needs a detector that looks at crops', fix="Use RCNN")
    solvers = [stage.solver for stage in fit.stages if isinstance(stage.solver, SVM | Ridge)]
    if not solvers:
        return
    if not isinstance(detector, TwoStage) or not isinstance(detector.roi_head, RCNNHeadLayers):
        raise UsageError("fit.stages: SVM and Ridge fit the head of R-CNN and SPP-Net", fix="Use head=RCNNHead()")
    if any(isinstance(s, SVM) for s in solvers) and not isinstance(detector.roi.cls_loss, SoftmaxOrSVM):
        raise UsageError("fit.stages: SVM writes margins", fix="Set roi.cls_loss=SoftmaxOrSVM()")


def near(fit: Recipe) -> float:
    """The overlap from which any stage wants to see what the boxes see."""
    return min((s.solver.iou for s in fit.stages if isinstance(s.solver, Ridge)), default=1.0)


def run_fitted(
    solver: SVM | Ridge, extraction: Extraction, out: Path, console: Progress, check: Callable[[], None]
) -> None:
    """Stores what is missing of the features, solves, and writes the weights. ``check`` may raise after every image.

    Interrupted anywhere, the next call goes on with the next image and ends with the same weights.
    """
    detector, dataset = extraction.detector, extraction.dataset
    classes = detector.classes
    store = FeatureStore(out / FOLDER, len(dataset), len(classes))
    name = type(solver).__name__
    console.say(f"{name}: from the features of {len(dataset)} images, stored in {store.folder}")

    tell = console.making("features")

    def step(done: int, total: int) -> None:
        check()
        tell(done, total)

    for message in extraction(store, step).values():
        console.say(f"warning: left out: {message}")
    head = cast(RCNNHeadLayers, detector.roi_head)
    if isinstance(solver, SVM):
        console.say(f"SVM: {len(classes)} classes, one pass of hard negatives")
        layer = fit_svms(solver, store.rows("classes"), len(classes))
        lack, effect = "an object, or any window without one", "it will never be found"
    else:
        console.say(f"Ridge: the boxes of {len(classes)} classes")
        layer = fit_ridge(solver, store.rows("boxes"), len(classes), detector.roi.coder)
        lack, effect = f"a proposal that overlaps an object by more than {solver.iou}", "its boxes stay as proposed"
    if len(layer.without) == len(classes):
        raise FovealError(
            f"{name}: no class has anything to learn from: the training set has not {lack}",
            path=dataset.path,
            fix="Check their recall with `foveal proposals`, or leave this stage out of fit.stages",
        )
    for label in layer.without:
        console.say(f"warning: {name}: the training set has not {lack} for class {classes[label]!r}; {effect}")
    if isinstance(solver, SVM):
        write_svms(head.predictor.cls_score, layer)
    else:
        _write(head.predictor.bbox_pred, layer)


def remove_fitted(out: Path) -> None:
    """The stored maps and features of a run that has ended."""
    for folder in (FOLDER, MAPS):
        shutil.rmtree(out / folder, ignore_errors=True)


@torch.no_grad()
def write_svms(linear: nn.Linear, layer: LinearFit) -> None:
    """Margins into the columns of the classes, zero into the background's (:class:`SoftmaxOrSVM`)."""
    linear.weight.zero_()
    linear.bias.zero_()
    linear.weight[:-1] = torch.from_numpy(layer.weight).to(linear.weight)
    linear.bias[:-1] = torch.from_numpy(layer.bias).to(linear.bias)


@torch.no_grad()
def _write(linear: nn.Linear, layer: LinearFit) -> None:
    linear.weight.copy_(torch.from_numpy(layer.weight))
    linear.bias.copy_(torch.from_numpy(layer.bias))
