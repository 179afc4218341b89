"""Tests over users, corrected for their number, and intervals that hold the truth as often as they say."""

import numpy as np
import pytest
from scipy import stats

from trainers import significance


def test_holms_correction_by_hand() -> None:
    corrected = significance.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "itself": None})
    # 4 × 0.005, 3 × 0.01, 2 × 0.03, and 1 × 0.04, which may not be below the one before.
    expected = {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02, "itself": None}
    assert corrected == {name: value and pytest.approx(value) for name, value in expected.items()}


def test_no_corrected_value_is_above_one() -> None:
    assert significance.holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}


def test_a_recommender_against_itself_is_no_difference_at_all() -> None:
    values = np.random.default_rng(0).random(50)
    assert significance.p_value(values, values) == 1.0
    assert significance.ahead(values, values) == (0.0, 0.0, 0.0)


def test_the_interval_of_many_users_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).random(4000)
    half = 1.96 * stats.sem(values)
    ends = significance.interval(values)
    assert ends == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 5)


def test_being_ahead_on_the_same_users_is_known_more_exactly_than_either_mean() -> None:
    rng = np.random.default_rng(2)
    theirs = rng.random(500)
    ours = 1.1 * theirs + 0.01 * rng.normal(size=500)
    share, low, high = significance.ahead(ours, theirs)
    assert share == pytest.approx(0.1, abs=0.01)
    assert low is not None
    assert high is not None
    assert 0.09 < low < share < high < 0.11
    ends = significance.interval(ours)
    assert ends[0] is not None
    assert ends[1] is not None
    assert high - low < (ends[1] - ends[0]) / ours.mean() / 5


def test_one_user_has_no_interval_and_nothing_to_be_ahead_of_gives_none() -> None:
    one, none = np.array([0.5]), np.zeros(3)
    assert significance.interval(one) == (None, None)
    assert significance.p_value(one, one + 1) is None
    assert significance.ahead(one, one + 0.5) == (pytest.approx(-0.5), None, None)
    assert significance.ahead(none + 1, none) == (None, None, None)
