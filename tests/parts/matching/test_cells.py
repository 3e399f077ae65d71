"""Objects with several anchors (Darknet's ``iou_thresh``) by hand; the rest is in ``tests/detectors/test_yolo.py``."""

from __future__ import annotations

import pytest
import torch

from foveal.errors import UsageError
from foveal.parts.matching.cells import Responsible, ShapeMatcher
from foveal.parts.priors.cells import Cells
from foveal.types import Images, Priors, Target, Targets


def priors() -> Priors:
    """One cell of 64 px with anchors of 10 x 10, 20 x 20 and 40 x 20."""
    images = Images(torch.zeros(1, 3, 64, 64), torch.tensor([[64, 64]]), torch.ones(1, 4), torch.tensor([[64, 64]]))
    return Cells((((10, 10), (20, 20), (40, 20)),))(images, [torch.zeros(1, 1, 1, 1)], [64])


def targets(*sizes: tuple[float, float]) -> Targets:
    boxes = torch.tensor([[32 - w / 2, 32 - h / 2, 32 + w / 2, 32 + h / 2] for w, h in sizes])
    return Targets.pad([Target(boxes, torch.arange(len(sizes)))])


def test_similar_anchors_are_assigned_too() -> None:
    """A square of 20: IoU of shapes 1/4, 1 and 1/2 with the three anchors."""
    for also, expected in ((None, [1]), (0.6, [1]), (0.4, [1, 2]), (0.2, [0, 1, 2])):
        match = ShapeMatcher(also=also)(priors(), targets((20, 20)))
        assert match.positive[0].nonzero().flatten().tolist() == expected


def test_an_anchor_is_of_the_object_that_fits_it_best() -> None:
    """40 x 20 has its own anchor, which the square fits too; both fit that of 20 x 20: it is the square's."""
    match = ShapeMatcher(also=0.4)(priors(), targets((20, 20), (40, 20)))
    assert match.positive[0].tolist() == [False, True, True]
    assert match.gt[0, 1:].tolist() == [0, 1]
    first = ShapeMatcher(also=0.2)(priors(), targets((21, 20), (20, 20)))  # both fit the second anchor best
    assert first.positive.all() and first.gt[0].tolist() == [1, 1, 1]


def test_wrong_thresholds_are_rejected() -> None:
    for also in (1.0, -0.1):
        with pytest.raises(UsageError, match="expected an IoU from 0 to below 1"):
            ShapeMatcher(also=also)


def test_priors_without_a_grid_are_refused_and_no_priors_match_nothing() -> None:
    boxes = Priors(torch.tensor([[0.0, 0.0, 64.0, 64.0]]), (1,))
    with pytest.raises(UsageError, match="which only the priors Cells have"):
        ShapeMatcher()(boxes, targets((20, 20)))
    with pytest.raises(UsageError, match="Responsible needs the predicted boxes"):
        Responsible()(priors(), targets((20, 20)))
    empty = Priors(torch.zeros(0, 4), (0,), grid=torch.zeros(0, 5))
    outputs = torch.zeros(1, 0, 4), torch.zeros(1, 0, 1)
    for match in (ShapeMatcher()(empty, targets((20, 20))), Responsible()(empty, targets((20, 20)), outputs)):
        assert match.gt.shape == match.positive.shape == match.ignored.shape == (1, 0)


def test_the_smallest_object_is_still_assigned() -> None:
    """A side of exactly a quarter of the image's, and one of a hair less."""
    matcher, boxes = Responsible(smallest=0.25), torch.tensor([[[0.0, 0.0, 64.0, 64.0]] * 3])
    for side, count in ((16.0, 1), (15.99, 0)):
        match = matcher(priors(), targets((side, 40.0)), (boxes, torch.zeros(1, 3, 1)))
        assert int(match.positive.sum()) == count


def test_the_responsible_box_overlaps_most_or_is_nearest() -> None:
    """An object of 20 in the middle of 64: without any overlap the error of center and sides decides."""
    far = [
        [0.0, 0.0, 4.0, 4.0],
        [44.0, 44.0, 60.0, 64.0],
        [0.0, 0.0, 20.0, 20.0],
    ]  # in 1/64: 48, 30, 31
    near = [[0.0, 0.0, 4.0, 4.0], [40.0, 40.0, 60.0, 64.0], [20.0, 20.0, 42.0, 44.0]]
    for boxes, best in ((far, 1), (near, 2)):
        match = Responsible()(priors(), targets((20, 20)), (torch.tensor([boxes]), torch.zeros(1, 3, 1)))
        assert match.positive[0].nonzero().flatten().tolist() == [best]
