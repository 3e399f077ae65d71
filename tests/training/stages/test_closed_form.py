"""SVM and ridge layers against scikit-learn in float64 (1.4 or later), on features stored in half precision."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from foveal.parts.coders import Delta
from foveal.recipe import SVM, Ridge
from foveal.training.stages.feature_rows import ImageFeatures, LinearFit, mean_norm, overlaps_of
from foveal.training.stages.ridge import fit_ridge
from foveal.training.stages.svm import UNTRAINED, fit_svms

sklearn_svm = pytest.importorskip("sklearn.svm")
sklearn_linear = pytest.importorskip("sklearn.linear_model")

WIDTH = 12


def image(rng: np.random.Generator, objects: int, proposals: int, classes: int = 3) -> ImageFeatures:
    """Random objects, proposals around them, and features weakly correlated with the class and the offset."""
    corner = rng.uniform(0, 200, (objects, 2))
    truth = np.concatenate([corner, corner + rng.uniform(30, 90, (objects, 2))], 1)
    labels = rng.integers(0, classes, objects)
    if objects:
        near = truth[rng.integers(0, objects, proposals)] + rng.normal(0, 9, (proposals, 4))
    else:
        near = np.concatenate([rng.uniform(0, 99, (proposals, 2)), rng.uniform(100, 200, (proposals, 2))], 1)
    boxes = np.concatenate([truth, near])
    overlaps, best = overlaps_of(boxes, truth, labels, classes)
    own = np.concatenate([labels, np.full(proposals, -1)])
    features = np.concatenate([overlaps, (boxes - best) / 50, rng.normal(0, 0.6, (len(boxes), WIDTH - classes - 4))], 1)
    features = features.astype(np.float16)
    return ImageFeatures(features, boxes, own, overlaps, best, np.linalg.norm(features.astype(np.float64), axis=1))


def images(count: int = 12, seed: int = 0) -> list[ImageFeatures]:
    rng = np.random.default_rng(seed)
    made = [image(rng, int(rng.integers(1, 4)), 60) for _ in range(count)]
    made.insert(1, image(rng, 0, 30))  # without an object
    made.insert(0, replace(made[0], **{name: getattr(made[0], name)[:0] for name in vars(made[0])}))  # without a window
    return made


def all_features(made: list[ImageFeatures]) -> NDArray[np.float64]:
    return np.concatenate([r.features for r in made]).astype(np.float64)


def outputs(layer: LinearFit, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outputs of the layer as a module in single precision."""
    linear = torch.nn.Linear(x.shape[1], len(layer.bias))
    linear.load_state_dict({"weight": torch.from_numpy(layer.weight), "bias": torch.from_numpy(layer.bias)})
    with torch.no_grad():
        return np.asarray(linear(torch.from_numpy(x).float()).double().numpy())


def plain_svm(made: list[ImageFeatures], label: int, s: SVM, scale: float) -> tuple[NDArray[np.float64], int]:
    """The margins by scikit-learn, and how often it was called: the paper's pass over (image, row) indices."""
    rows = [(i, r) for i, m in enumerate(made) for r in range(len(m)) if m.labels[r] == label]
    feature = lambda at: made[at[0]].features[at[1]].astype(np.float64) * scale  # noqa: E731
    cache: list[tuple[int, int]] = []
    model, fresh, calls = None, 0, 0
    for i, m in enumerate(made):
        negative = [r for r in range(len(m)) if m.overlaps[r, label] < s.negative]
        hard = [(i, r) for r in negative if model is None or model.decision_function([feature((i, r))])[0] > s.hard]
        cache, fresh = cache + hard, fresh + len(hard)
        if (hard and (model is None or fresh > s.retrain)) or (fresh and i == len(made) - 1):
            x = np.array([feature(at) for at in rows + cache])
            model = sklearn_svm.LinearSVC(
                loss="hinge", dual=True, C=s.c, class_weight={1: s.positive_weight}, max_iter=20_000,
                intercept_scaling=s.bias_feature, random_state=0,
            ).fit(x, [1] * len(rows) + [0] * len(cache))  # fmt: skip
            cache = [at for at in cache if model.decision_function([feature(at)])[0] >= s.easy]
            fresh, calls = 0, calls + 1
    assert model is not None
    return np.asarray(model.decision_function(all_features(made) * scale)), calls


@pytest.mark.parametrize("settings", [SVM(), SVM(retrain=40), SVM(c=0.1, norm=5.0, positive_weight=1.0, retrain=20)])
def test_svms_match_scikit_learn(settings: SVM) -> None:
    made = images()
    found = outputs(fit_svms(settings, made, 3), all_features(made))
    scale = settings.norm / np.linalg.norm(all_features(made), axis=1).mean()
    calls = []
    for label in range(3):
        expected, times = plain_svm(made, label, settings, scale)
        assert np.abs(found[:, label] - expected).max() <= 1e-4
        calls.append(times)
    assert max(calls) > 2 or settings.retrain > 1000


def test_class_without_objects_is_reported_and_never_scores() -> None:
    made = images()
    wider = [replace(m, overlaps=np.pad(m.overlaps, ((0, 0), (0, 1)))) for m in made]
    layer = fit_svms(SVM(), wider, 4)
    assert layer.without == (3,) and layer.bias[3] == UNTRAINED and not layer.weight[3].any()
    assert torch.sigmoid(torch.tensor(UNTRAINED)) < 1e-43
    same = fit_svms(SVM(), made, 3)
    assert np.array_equal(layer.weight[:3], same.weight) and not same.without


def test_ridge_matches_scikit_learn() -> None:
    made, settings, coder = images(), Ridge(alpha=3.0, iou=0.5), Delta()
    layer = fit_ridge(settings, made, 3, coder)
    x = all_features(made)
    found = outputs(layer, x).reshape(len(x), 3, 4)
    scale = settings.norm / np.linalg.norm(x, axis=1).mean()
    for label in range(3):
        chosen = [(m, m.labels < 0) for m in made]
        chosen = [(m, own & (m.overlaps.max(1, initial=0) > 0.5)) for m, own in chosen if len(m)]
        chosen = [(m, own & (m.overlaps.argmax(1) == label)) for m, own in chosen]
        rows = np.concatenate([m.features[own] for m, own in chosen]).astype(np.float64) * scale
        truth, boxes = (
            torch.from_numpy(np.concatenate([getattr(m, n)[o] for m, o in chosen])) for n in ("truth", "boxes")
        )
        y = coder.encode(truth, boxes).numpy()
        values, vectors = np.linalg.eigh(np.cov(y.T, bias=True))
        whiten = vectors @ np.diag(1 / np.sqrt(values + settings.eps)) @ vectors.T
        model = sklearn_linear.Ridge(alpha=settings.alpha, fit_intercept=False)
        model.fit(np.pad(rows, ((0, 0), (0, 1)), constant_values=1), (y - y.mean(0)) @ whiten)
        expected = model.predict(np.pad(x * scale, ((0, 0), (0, 1)), constant_values=1)) @ np.linalg.inv(whiten)
        assert len(rows) > 20 and np.abs(found[:, label] - (expected + y.mean(0))).max() <= 1e-4
    # classes solved in turn, for lack of memory, give the same
    assert np.array_equal(fit_ridge(settings, made, 3, coder, memory=1).weight, layer.weight)


def test_constant_targets_are_whitened() -> None:
    """One proposal: the covariance is zero, whitening divides by sqrt(eps), and the output is its own delta."""
    box, truth = np.array([[10.0, 10, 50, 50]]), np.array([[12.0, 10, 52, 50]])
    features = np.ones((1, 5), np.float16)
    one = ImageFeatures(features, box, np.array([-1]), np.array([[0.9, 0.0]]), truth, np.ones(1))
    layer = fit_ridge(Ridge(), [one], 2, Delta())
    assert layer.without == (1,) and not layer.weight[4:].any() and not layer.bias[4:].any()
    assert outputs(layer, np.ones((1, 5)))[0, :4] == pytest.approx([2 / 40, 0, 0, 0], abs=1e-6)


def test_dataset_without_windows() -> None:
    nothing = [images()[0]] * 2
    assert fit_svms(SVM(), nothing, 2).without == (0, 1)
    assert fit_ridge(Ridge(), nothing, 2, Delta()).without == (0, 1)
    assert mean_norm(nothing) == 1.0


def test_overlaps_are_computed_per_class() -> None:
    boxes, objects = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]]), np.array([[0.0, 0, 10, 5], [0, 0, 10, 20]])
    overlaps, truth = overlaps_of(boxes, objects, np.array([2, 0]), 3)
    assert overlaps.tolist() == [[0.5, 0, 0.5], [0, 0, 0]] and truth[0].tolist() == [0, 0, 10, 5]
    empty, own = overlaps_of(boxes, objects[:0], np.zeros(0, np.int64), 3)
    assert not empty.any() and np.array_equal(own, boxes)
