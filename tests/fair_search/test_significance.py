"""P-values of differences and Holm's correction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fair_search.significance import LEVEL, bootstrap_p, draws_needed, holm


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04 → never below one before it
    assert holm(np.array([0.03, 0.01, 0.04, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])
    assert holm(np.empty((2, 0, 3)), axis=1).shape == (2, 0, 3)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_value_and_bonferroni(values):
    p = np.array(values)
    corrected = holm(p)
    assert (corrected >= p - 1e-15).all()
    assert (corrected <= np.minimum(1, len(p) * p) + 1e-15).all()
    assert (holm(np.stack([p, p], axis=1), axis=0) == corrected[:, None]).all()


def test_p_value_agrees_with_the_interval():
    draws = np.random.default_rng(0).normal(3, 1, size=(999, 4))
    value = np.array([0.0, 1.0, 2.5, 5.0])
    p = bootstrap_p(draws, value)
    # of a normal difference with standard deviation 1: 2 (1 − Φ(value))
    assert p == pytest.approx([1, 0.317, 0.012, 2 / 1000], abs=0.03)
    assert p[3] == 2 / 1000  # the smallest that 999 draws can give


def test_draws_that_one_of_many_comparisons_needs():
    for comparisons in (1, 3, 11, 24):
        draws = draws_needed(comparisons)
        assert comparisons * 2 / (draws + 1) < LEVEL <= comparisons * 2 / draws
