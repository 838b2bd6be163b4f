import math

import pytest

from playground.evaluation.recommend import Bounds, Point, advise, recommend

BOUNDS = Bounds(class_drift=0.2, memorisation=0.9)


def look(step, fidelity, drift=0.1, memorisation=0.5):
    return Point(step, fidelity, 0.3, drift, 0.4, memorisation)


def test_the_highest_fidelity_within_the_bounds_is_kept():
    points = [look(0, 0.2, 0), look(100, 0.5), look(200, 0.7), look(300, 0.65), look(400, 0.9, drift=0.3)]
    assert recommend(points, BOUNDS) == 200
    assert recommend([*points, look(500, 0.95, memorisation=0.97)], BOUNDS) == 200
    assert recommend(points, Bounds(class_drift=0.3, memorisation=0.9)) == 400
    assert recommend(points[::-1], BOUNDS) == 200


def test_of_equal_looks_the_earlier_is_kept():
    points = [look(100, 0.6), look(200, 0.7), look(300, 0.705), look(400, 0.7)]
    assert recommend(points, BOUNDS) == 200
    assert recommend([look(100, 0.6), look(200, 0.7), look(300, 0.72)], BOUNDS) == 300


def test_the_base_model_is_kept_only_where_nothing_else_is():
    assert recommend([look(0, 0.9, 0), look(50, 0.3)], BOUNDS) == 50
    assert recommend([look(0, 0.9, 0)], BOUNDS) == 0


def test_with_none_within_the_bounds_the_least_overstepping_is_kept_and_said():
    points = [look(100, 0.6, drift=0.3), look(200, 0.7, drift=0.24), look(300, 0.9, memorisation=1.0)]
    advice = advise(points, BOUNDS)
    assert (advice.step, advice.within) == (300, False)  # 1.11 of a bound, against 1.5 and 1.2
    assert "prior preservation" in advice.reason


def test_what_was_not_measured_oversteps_nothing_and_decides_nothing():
    points = [Point(100, 0.5), look(200, None), look(300, math.nan), look(400, 0.9, drift=math.nan)]
    assert recommend(points, BOUNDS) == 100
    with pytest.raises(ValueError, match="fidelity"):
        recommend([look(100, None)], BOUNDS)


def test_a_bound_of_zero_allows_no_drift_at_all():
    points = [look(100, 0.5, drift=0.0), look(200, 0.9, drift=1e-6)]
    assert recommend(points, Bounds(class_drift=0.0, memorisation=0.9)) == 100


def test_the_reason_names_step_and_bounds():
    advice = advise([look(100, 0.5), look(200, 0.7)], BOUNDS)
    assert advice.within
    for part in ("Step 200", "0.700", "2 of 2 looks", "0.200", "0.900"):
        assert part in advice.reason
