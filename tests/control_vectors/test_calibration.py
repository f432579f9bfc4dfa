"""Calibrated strengths on response curves that are known."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from wanvideo_activation_editor.vectors import ControlVectorError
from wanvideo_activation_editor.vectors.calibration import Curve, calibrate_response

CURVES = {
    "linear": lambda s: 0.31 * s,
    "steep linear": lambda s: 3.0 * s,
    "saturating": lambda s: 0.9 * (1 - math.exp(-0.8 * s)),
    "early saturating": lambda s: 0.7 * s / (0.2 + s),
    "cubic": lambda s: 0.05 * s**3,
    "weak cubic": lambda s: 0.001 * s**3,
    "late": lambda s: 0.8 / (1 + math.exp(-3 * (s - 2))) - 0.8 / (1 + math.exp(6)),
}


@pytest.mark.parametrize("levels", [2, 5, 9])
@pytest.mark.parametrize("name", CURVES)
def test_gaps_are_within_10_percent_of_equal_in_10_evaluations(name, levels):
    asked = []

    def effect(strength):
        asked.append(strength)
        return CURVES[name](strength)

    found = calibrate_response(effect, levels, limit=0.5)
    assert len(asked) == len(found.measured) <= 10
    assert len(found.strengths) == levels and found.monotone
    true = [0.0, *map(CURVES[name], found.strengths)]
    for low, high in pairwise(true):
        assert abs((high - low) / (0.5 / levels) - 1) < 0.10
    assert math.isclose(true[-1], 0.5, rel_tol=0.03)


def test_it_stops_doubling_at_the_budget():
    asked = []
    calibrate_response(lambda s: asked.append(s) or 0.3 * s, 3, limit=0.5)
    assert max(asked) == 2.0  # the first at or beyond the limit


def test_an_effect_that_stays_below_the_limit_is_said_to():
    found = calibrate_response(lambda s: 0.2 * (1 - math.exp(-s)), 4, limit=0.5)
    assert math.isclose(found.reached, 0.2, rel_tol=0.01) and "did not reach the limit" in found.report()
    gaps = [0.2 * (math.exp(-a) - math.exp(-b)) for a, b in pairwise([0.0, *found.strengths[:3]])]
    assert all(abs(gap / 0.05 - 1) < 0.1 for gap in gaps)


def test_a_response_that_falls_is_said_to_be_not_monotone():
    found = calibrate_response(lambda s: 0.4 * math.sin(s), 4, limit=0.5, highest=3.0)
    assert not found.monotone and "does not rise" in found.report()
    assert all(s <= math.pi / 2 + 0.5 for s in found.strengths)
    assert calibrate_response(lambda s: 0.3 * s, 4).monotone


def test_what_is_no_response_is_refused():
    for effect, words in (
        (lambda s: 0.0, "No strength up to 10 changed anything"),
        (lambda s: float("nan"), "no measure of change"),
        (lambda s: -1.0, "no measure of change"),
    ):
        with pytest.raises(ControlVectorError, match=words):
            calibrate_response(effect)
    for options in ({"levels": 1}, {"levels": 10}, {"limit": 0.0}, {"start": 20.0}, {"evaluations": 3}):
        with pytest.raises(ControlVectorError):
            calibrate_response(lambda s: s, **options)


def test_the_curve_goes_through_its_points_and_never_falls():
    points = [(0.0, 0.0), (0.5, 0.01), (1.0, 0.6), (3.0, 0.62), (4.0, 2.0)]
    curve = Curve(points)
    assert all(math.isclose(curve.effect_at(s), e, abs_tol=1e-12) for s, e in points)
    values = [curve.effect_at(s) for s in np.linspace(0, 4, 500)]
    assert all(b >= a - 1e-12 for a, b in pairwise(values))
    assert math.isclose(curve.effect_at(curve.strength_at(0.3)), 0.3, rel_tol=1e-6)


def test_the_picture_shows_the_curve():
    found = calibrate_response(lambda s: 0.3 * s, 4)
    picture = np.asarray(found.plot())
    assert picture.shape == (480, 960, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    assert [round(float(s), 2) for s in str(found).split(",")] == [0.42, 0.83, 1.25, 1.67]
