"""The area below a curve is the metric, whatever is left out of its points."""

from __future__ import annotations

import numpy as np
import pytest

from rtk.metrics import aurc, ds_aurc
from rtk.report.curves import area, joint_curve, selective_curve, thinned

RNG = np.random.default_rng(0)
N = 900
PAIR = RNG.random(N), RNG.random(N)
RIGHT = RNG.random(N) < PAIR[0] + 0.3
OOD = [(RNG.random(count), RNG.random(count) * 0.7) for count in (300, 50)]


@pytest.mark.parametrize("digits", [10, 1])  # with few digits many confidences are equal
def test_area_of_the_selective_curve_is_aurc(digits):
    confidence = PAIR[0].round(digits)
    curve = selective_curve(confidence, RIGHT)
    assert area(curve) == pytest.approx(aurc(confidence, RIGHT), abs=1e-12)
    assert curve[0][0] == 0
    assert (curve[0][-1], curve[1][-1]) == pytest.approx((1, 1 - RIGHT.mean()))


@pytest.mark.parametrize("method", ["exact", "grid"])
def test_area_of_the_joint_curve_is_the_mean_of_the_sets(method):
    wanted = np.mean([ds_aurc(*PAIR, RIGHT, *ood, method=method) for ood in OOD])
    assert area(joint_curve(PAIR, RIGHT, OOD, method)) == pytest.approx(wanted, abs=1e-12)
    pooled = ds_aurc(
        *PAIR, RIGHT, *(np.append(*columns) for columns in zip(*OOD, strict=True)), method=method
    )
    assert abs(pooled - wanted) > 0.01  # so that the sets as one would have been seen


def test_thinned_curves_keep_their_area():
    curve = selective_curve(*(np.tile(values, 20) for values in (PAIR[0] + RNG.random(N) / 1e6, RIGHT)))
    stairs = joint_curve(PAIR, RIGHT, OOD)
    for whole in (curve, stairs):
        found = thinned(whole, 300)
        assert len(found[0]) <= 300 < len(whole[0])
        assert (np.diff(found[0]) >= 0).all()
        assert area(found) == pytest.approx(area(whole), abs=1e-12)
        assert np.abs(found[1] - np.interp(found[0], *whole)).max() < 0.05


def test_short_curves_are_left_alone():
    curve = np.array([0.0, 1.0]), np.array([0.5, 0.25])
    assert thinned(curve) is curve
