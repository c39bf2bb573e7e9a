"""Metrics against arithmetic done by hand, intervals against SciPy on the raw records."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bias_evaluation.scoring.metrics import (
    class_priors,
    class_shares,
    kl_divergence,
    log_ratios,
    max_skew,
    mean_and_ci,
    summarize,
    summarize_hits,
)
from safe_io.errors import InputError

LN2, LN3 = math.log(2), math.log(3)


def test_shares_are_counts_over_the_last_axis() -> None:
    codes = np.array([[0, 0, 1, 2], [2, 2, 2, 2]])
    # first row 2, 1, 1 of 4; second 0, 0, 4 of 4
    np.testing.assert_array_equal(class_shares(codes, 3), [[0.5, 0.25, 0.25], [0, 0, 1]])


def test_shares_keep_leading_axes_and_trailing_empty_classes() -> None:
    codes = np.array([[[0, 1]], [[1, 1]]])
    np.testing.assert_array_equal(class_shares(codes, 4), [[[0.5, 0.5, 0, 0]], [[0, 1, 0, 0]]])
    np.testing.assert_array_equal(class_shares(np.array([1, 0, 1, 1]), 2), [0.25, 0.75])


def test_priors_are_the_shares_of_a_fold() -> None:
    np.testing.assert_array_equal(class_priors(np.array([0, 0, 0, 1]), ("Male", "Female"), 0), [0.75, 0.25])


def test_a_class_without_images_has_no_prior() -> None:
    with pytest.raises(InputError) as error:
        class_priors(np.array([0, 0, 2]), ("red", "green", "blue"), 7)
    assert "bias class 'green' has no evaluation image in fold 7" in str(error.value)
    assert "drop the class from the config" in str(error.value)


@pytest.mark.parametrize(
    ("shares", "priors", "kl", "skew"),
    [
        # p = π: every ratio is 1
        ([0.5, 0.5], [0.5, 0.5], 0.0, 0.0),
        # 3/4·ln(3/2) + 1/4·ln(1/2) = 3/4·ln 3 − ln 2;  max(ln 3/2, −ln 2)
        ([0.75, 0.25], [0.5, 0.5], 0.75 * LN3 - LN2, LN3 - LN2),
        # an absent class adds 0·ln(1e-10) = 0:  1·ln(1 / ½)
        ([1.0, 0.0], [0.5, 0.5], LN2, LN2),
        # unequal priors: ½·ln(½ / ¼) + ½·ln(½ / ¾) = ½·ln 2 + ½·ln(2/3)
        ([0.5, 0.5], [0.25, 0.75], 0.5 * LN2 + 0.5 * (LN2 - LN3), LN2),
        # three classes: ½·ln 2 + ¼·ln 1 + ¼·ln ½ = ¼·ln 2
        ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5], 0.25 * LN2, LN2),
    ],
)
def test_kl_and_max_skew_by_hand(shares: list[float], priors: list[float], kl: float, skew: float) -> None:
    assert kl_divergence(np.array(shares), np.array(priors)) == pytest.approx(kl, abs=1e-15)
    assert max_skew(np.array(shares), np.array(priors)) == pytest.approx(skew, abs=1e-15)


def test_the_ratio_of_an_absent_class_is_held_at_1e_10() -> None:
    expected = [math.log(2), -10 * math.log(10)]
    np.testing.assert_allclose(log_ratios(np.array([1.0, 0.0]), np.array([0.5, 0.5])), expected, rtol=1e-15)
    # far below any share that can occur, so no share that does occur is changed
    tiny = log_ratios(np.array([1e-9]), np.array([1.0]))
    np.testing.assert_allclose(tiny, [-9 * math.log(10)], rtol=1e-12)


def test_metrics_follow_their_formulas_on_random_tables() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        shares = class_shares(random.integers(0, 4, (3, 9)), 4)
        priors = class_priors(np.concatenate([np.arange(4), random.integers(0, 4, 30)]), "abcd", 0)
        kls, skews = kl_divergence(shares, priors), max_skew(shares, priors)
        for p, kl, skew in zip(shares, kls, skews, strict=True):
            logs = [math.log(max(a / b, 1e-10)) for a, b in zip(p, priors, strict=True)]
            naive = sum(a * log for a, log in zip(p, logs, strict=True))
            assert kl == pytest.approx(naive, abs=1e-12)
            assert skew == pytest.approx(max(0.0, *logs), abs=1e-12)
            assert -1e-12 < kl < skew + 1e-12  # a weighted mean of logs is at most their largest


# --- intervals --------------------------------------------------------------------------------------------


def test_interval_by_hand() -> None:
    # records 0, 1, 2: variance with ddof 1 is (1 + 0 + 1) / 2 = 1 (with ddof 0 it would be 2/3),
    # standard error √(1/3), t₀.₉₇₅(2) = 4.30265273
    mean, ci = summarize(np.array([0.0, 1.0, 2.0]))
    assert mean == 1.0
    assert ci == pytest.approx(4.30265272991 * math.sqrt(1 / 3), rel=1e-10)


def test_interval_is_scipys_on_raw_records() -> None:
    records = np.random.default_rng(1).gamma(2.0, size=(10, 25))
    mean, ci = summarize(records)
    low, high = stats.t.interval(0.95, records.size - 1, loc=records.mean(), scale=stats.sem(records, None))
    assert mean == pytest.approx(records.mean(), rel=1e-14)
    assert mean - ci == pytest.approx(low, rel=1e-12)
    assert mean + ci == pytest.approx(high, rel=1e-12)


def test_one_record_has_no_interval() -> None:
    assert summarize(np.array([[0.3]])) == (0.3, None)
    assert summarize_hits(1, 1) == (1.0, None)
    assert mean_and_ci(0.3, 0.0, 1) == (0.3, None)


def test_equal_records_have_an_interval_of_zero() -> None:
    assert summarize(np.full(5, 0.25)) == (0.25, 0.0)


@pytest.mark.parametrize(("hits", "n"), [(0, 4), (4, 4), (1, 2), (3, 10), (999, 1000)])
def test_hits_are_records_of_ones_and_zeros(hits: int, n: int) -> None:
    records = np.array([1.0] * hits + [0.0] * (n - hits))
    mean, ci = summarize_hits(hits, n)
    expected_mean, expected_ci = summarize(records)
    assert mean == pytest.approx(expected_mean, rel=1e-14)
    assert ci == pytest.approx(expected_ci, rel=1e-10, abs=1e-15)


def test_results_are_plain_numbers_for_json() -> None:
    assert [type(x) for x in summarize(np.float32([0.5, 0.25]))] == [float, float]
    assert [type(x) for x in summarize_hits(1, 3)] == [float, float]
