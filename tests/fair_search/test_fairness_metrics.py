"""Fairness of ranked lists against values worked out by hand, and against the definitions written down."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fair_search.fairness_metrics import FAIRNESS, METRICS, fairness_at, ndkl, random_order

HALF = np.array([0.5, 0.5])


def at(codes, desired, population, k):
    found = fairness_at(np.asarray(codes), np.asarray(desired), np.asarray(population), [k])
    return {name: float(values[..., 0]) for name, values in found.items()}


def test_hand_computed():
    found = at([0, 0, 0, 1], HALF, [0.75, 0.25], 4)
    assert found["kl"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert found["max_skew"] == pytest.approx(math.log(1.5))
    assert found["min_skew"] == pytest.approx(math.log(0.5))
    # rates of being retrieved: 0.75 / 0.75 and 0.25 / 0.25
    assert found["dp_ratio"] == pytest.approx(1.0)


def test_fair_list_has_the_fair_values():
    found = at([0, 1, 1, 0], HALF, HALF, 4)
    for name in set(FAIRNESS) - {"ndkl", "exposure_ratio", "exposure_difference"}:
        assert found[name] == pytest.approx(METRICS[name].fair, abs=1e-12)
    # after 1 and 3 images shares cannot be equal
    discount = 1 / np.log2(np.arange(2, 6))
    third = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert found["ndkl"] == pytest.approx((math.log(2) * discount[0] + third * discount[2]) / discount.sum())


def test_exposure_by_hand():
    # exposures 1, 0.631, 0.5, 0.431: group 0 has ranks 1 and 2; group 1, a quarter of the images, 3 and 4
    weights = [1 / math.log2(1 + i) for i in range(1, 5)]
    found = at([0, 0, 1, 1], HALF, [0.75, 0.25], 4)
    rates = [sum(weights[:2]) / sum(weights) / 0.75, sum(weights[2:]) / sum(weights) / 0.25]
    assert found["exposure_ratio"] == pytest.approx(rates[0] / rates[1])
    assert found["exposure_difference"] == pytest.approx(rates[1] - rates[0])


def test_absent_group():
    found = at([0] * 10, HALF, HALF, 10)
    assert found["kl"] == found["ndkl"] == found["max_skew"] == pytest.approx(math.log(2))
    assert found["min_skew"] == pytest.approx(math.log(0.05 / 0.5))  # half an image of ten
    assert found["dp_ratio"] == found["exposure_ratio"] == 0
    assert found["exposure_difference"] == pytest.approx(2)


def test_min_skew_of_a_rare_absent_group_is_below_zero():
    found = at([0] * 10, [0.99, 0.01], [0.99, 0.01], 10)
    assert found["min_skew"] == pytest.approx(math.log(0.5))  # half its desired share, not half an image


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_min_skew_is_never_above_zero(seed, k):
    random = np.random.default_rng(seed)
    desired = random.dirichlet(np.full(4, 0.3))
    assert at(random.integers(4, size=k), desired, desired, k)["min_skew"] <= 0


def test_group_that_no_draw_holds_is_left_out():
    found = at([0, 1, 1, 0], [0.5, 0.5, 0.0], [0.5, 0.5, 0.0], 4)
    assert found["min_skew"] == found["max_skew"] == found["kl"] == pytest.approx(0)
    assert found["dp_ratio"] == pytest.approx(1)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 30))
def test_ndkl_is_its_definition(seed, groups, length):
    random = np.random.default_rng(seed)
    codes = random.integers(groups, size=length)
    desired = random.dirichlet(np.ones(groups)) * 0.9 + 0.1 / groups
    total, weights = 0.0, 0.0
    for i in range(1, length + 1):
        shares = np.bincount(codes[:i], minlength=groups) / i
        kl = sum(p * math.log(p / q) for p, q in zip(shares, desired, strict=True) if p > 0)
        total, weights = total + kl / math.log2(i + 1), weights + 1 / math.log2(i + 1)
    assert ndkl(codes, desired, [length])[0] == pytest.approx(total / weights, abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_lists_of_any_shape_and_several_depths_agree_with_one_by_one(seed):
    codes = np.random.default_rng(seed).integers(3, size=(2, 3, 20))
    desired = np.array([0.5, 0.3, 0.2])
    together = fairness_at(codes, desired, desired, [5, 20])
    for m, q in np.ndindex(2, 3):
        for i, k in enumerate((5, 20)):
            alone = at(codes[m, q], desired, desired, k)
            for name in FAIRNESS:
                low, high = METRICS[name].bounds
                assert together[name][m, q, i] == pytest.approx(alone[name], abs=1e-12)
                assert low - 1e-12 <= alone[name] <= high + 1e-12


@pytest.mark.parametrize("k", [0, 5])
def test_depth_outside_the_lists(k):
    with pytest.raises(ValueError, match=f"K = {k} for lists of 4"):
        at([0, 1, 1, 0], HALF, HALF, k)


def test_random_order_is_what_chance_gives():
    codes = np.repeat([0, 1, 2], [500, 300, 200])
    shares = np.array([0.5, 0.3, 0.2])
    found = random_order(codes, 10, shares, shares, [50], draws=200, seed=0)
    assert found["kl"].shape == (200, 1)
    assert found["kl"].mean() == pytest.approx((3 - 1) / (2 * 50), rel=0.1)  # (C − 1) / 2K
    again = random_order(codes, 10, shares, shares, [50], draws=200, seed=0)
    assert (again["ndkl"] == found["ndkl"]).all()
