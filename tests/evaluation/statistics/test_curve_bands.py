"""The curves that AP is the area of, and their bands."""

from __future__ import annotations

import numpy as np
import pytest

from foveal.evaluation import score_detections
from foveal.evaluation.statistics.curve_bands import curve_bands
from tests.helpers.simulated_runs import make_objects, make_run


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_of_a_curve_is_the_ap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    objects = make_objects(rng, 60)
    results = score_detections(objects.table, make_run(rng, objects))
    bands = curve_bands([results.run])
    for name, row in results.per_class.items():
        assert bands[name].precision.mean() == pytest.approx(row["AP50"], abs=1e-9)
    assert bands[""].precision.mean() == pytest.approx(results.numbers["AP50"], abs=1e-9)


def test_the_band_holds_the_curve_and_narrows_with_images() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for images in (30, 400):
        objects = make_objects(rng, images)
        band = curve_bands([score_detections(objects.table, make_run(rng, objects)).run])[""]
        assert band.low is not None and band.high is not None
        assert (band.low <= band.precision).all() and (band.precision <= band.high).all()
        widths.append(float((band.high - band.low).mean()))
    assert widths[1] < 0.5 * widths[0]


def test_few_images_have_no_band_and_several_runs_are_averaged() -> None:
    rng = np.random.default_rng(0)
    objects = make_objects(rng, 8)
    results = [score_detections(objects.table, make_run(rng, objects)) for _ in range(2)]
    both = curve_bands([r.run for r in results])[""]
    assert both.low is None and both.high is None
    alone = [curve_bands([r.run])[""].precision for r in results]
    assert both.precision == pytest.approx((alone[0] + alone[1]) / 2)
