"""The fit in the row space against scikit-learn's own."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from disentanglement_study.probes import ProbeSettings, fit_probes, standardise
from disentanglement_study.row_space import GramOperator, fit_logistic
from safe_io.errors import InputError

N, P = 150, 900


def sparse_features(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents (n, P) that are mostly 0, some of them always; a label of 6 values and one of 2."""
    rng = np.random.default_rng(seed)
    many, two = rng.integers(0, 6, n), rng.integers(0, 2, n)
    signal = np.random.default_rng(7).standard_normal((8, 40))
    x = signal[many] + 0.7 * signal[6 + two] + 0.8 * rng.standard_normal((n, 40))
    latents = np.maximum(x @ np.random.default_rng(8).standard_normal((40, P)) - 12, 0).astype(np.float32)
    return latents, many, two


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Standardised training and test features, and the training labels."""
    latents, many, two = sparse_features(N + 60)
    train, test = standardise(latents[:N], latents[N:])
    assert train.shape[1] > N
    return train, test, [many[:N], two[:N]]


@pytest.mark.parametrize("tol", [1e-4, 1e-6])
@pytest.mark.parametrize("which", [0, 1], ids=["six classes", "two classes"])
def test_predictions_and_decision_values_are_those_of_scikit_learn(data, which: int, tol: float) -> None:
    train, test, labels = data
    direct = LogisticRegression(C=1, tol=tol, max_iter=1000, random_state=42)
    direct.fit(train.astype(np.float64), labels[which])
    [fit] = fit_logistic(GramOperator(train), [labels[which]], tol=tol)
    for part in (train, test):
        expected = direct.decision_function(part.astype(np.float64)).reshape(len(part), -1)
        found = fit.decision_function(part)
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
        np.testing.assert_array_equal(fit.predict(part), direct.predict(part))
    assert fit.converged
    assert abs(fit.n_iter - direct.n_iter_[0]) <= 4


def test_dropped_constant_features_change_nothing() -> None:
    latents, many, _ = sparse_features(N + 60)
    scaler = StandardScaler().fit(latents[:N])
    whole, rest = scaler.transform(latents[:N]), scaler.transform(latents[N:])
    direct = LogisticRegression(random_state=42, max_iter=1000).fit(whole.astype(np.float64), many[:N])
    train, test = standardise(latents[:N], latents[N:])
    assert train.shape[1] < P
    [fit] = fit_probes(train, [many[:N]], ProbeSettings())
    np.testing.assert_array_equal(fit.predict(test), direct.predict(rest))


def test_standardised_features_are_those_of_the_scaler() -> None:
    latents, _, _ = sparse_features(N)
    varies = latents[:100].std(axis=0) > 0
    scaler = StandardScaler().fit(latents[:100].astype(np.float64))
    train, test = standardise(latents[:100], latents[100:])
    np.testing.assert_allclose(train, scaler.transform(latents[:100])[:, varies], atol=2e-5)
    np.testing.assert_allclose(test, scaler.transform(latents[100:])[:, varies], rtol=1e-5, atol=2e-5)
    assert train.dtype == np.float32


def test_probes_side_by_side_are_the_probes_one_by_one(data) -> None:
    train, test, labels = data
    together = fit_logistic(GramOperator(train), labels, tol=1e-6)
    for one, fit in zip(labels, together, strict=True):
        [alone] = fit_logistic(GramOperator(train), [one], tol=1e-6)
        assert fit.n_iter == alone.n_iter
        np.testing.assert_allclose(fit.decision_function(test), alone.decision_function(test), atol=1e-3)


def test_the_gram_matrix_is_formed_once_it_pays_and_changes_nothing(data) -> None:
    train, test, labels = data
    early, late = GramOperator(train), GramOperator(train)
    [loose] = fit_logistic(early, labels[:1], tol=1e-1)
    assert not early.formed
    [tight] = fit_logistic(late, labels[:1], tol=1e-8)
    assert late.formed
    [again] = fit_logistic(late, labels[:1], tol=1e-1)  # with G from the start
    np.testing.assert_allclose(again.decision_function(test), loose.decision_function(test), atol=1e-3)
    direct = LogisticRegression(tol=1e-8, max_iter=1000).fit(train.astype(np.float64), labels[0])
    expected = direct.decision_function(test.astype(np.float64))
    assert np.abs(tight.decision_function(test) - expected).max() < 1e-2


def test_an_iteration_limit_is_kept_and_said(data) -> None:
    train, _, labels = data
    [fit] = fit_logistic(GramOperator(train), labels[:1], max_iter=2)
    assert fit.n_iter == 2
    assert not fit.converged


def test_narrow_features_go_to_scikit_learn_itself() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((80, 5)), rng.integers(0, 3, 80)
    [fit] = fit_probes(x, [y], ProbeSettings())
    direct = LogisticRegression(max_iter=1000, random_state=42).fit(x, y)
    np.testing.assert_allclose(fit.decision_function(x), direct.decision_function(x))
    np.testing.assert_array_equal(fit.predict(x), direct.predict(x))


def test_features_that_say_nothing_are_an_error() -> None:
    with pytest.raises(InputError, match="no feature varies"):
        standardise(np.ones((10, 3), dtype=np.float32), np.ones((2, 3), dtype=np.float32))
