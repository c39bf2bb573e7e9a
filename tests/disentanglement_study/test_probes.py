"""The probes against scikit-learn's StandardScaler and LogisticRegression on all features."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from disentanglement_study.probes import ProbeSettings, run_fold, standardise
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


def probe(features: np.ndarray, codes: np.ndarray, settings: ProbeSettings) -> LogisticRegression:
    model = LogisticRegression(C=1, tol=settings.tol, max_iter=settings.max_iter, random_state=42)
    return model.fit(features, codes)


@pytest.mark.parametrize("settings", [ProbeSettings(), ProbeSettings(tol=1e-7), ProbeSettings(max_iter=2)])
@pytest.mark.parametrize("features", [P, 12])
@pytest.mark.parametrize("order", [(1, 2), (2, 1)], ids=["six classes", "two classes"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fold_is_that_of_scikit_learn(
    features: int, order: tuple[int, int], settings: ProbeSettings
) -> None:
    """SEM, section 3.1, for a subject of six or two values; features that never vary change nothing."""
    latents, *labels = sparse_features(N + 60)
    x, y = latents[:N, :features], latents[N:, :features]
    parts = [(part, *(labels[k - 1][rows] for k in order)) for part, rows in ((x, np.s_[:N]), (y, np.s_[N:]))]
    assert not x.std(axis=0).all() or features == 12
    found = run_fold(*parts, settings)

    scaler = StandardScaler().fit(x)
    x, y = scaler.transform(x), scaler.transform(y)
    subject, direct = (probe(x, codes, settings) for codes in parts[0][1:])
    decisions = (subject.decision_function(part).astype(np.float64) for part in (x, y))
    values, others = (d.reshape(len(d), -1) for d in decisions)
    scaler = StandardScaler().fit(values)
    leak = probe(scaler.transform(values), parts[0][2], settings)
    assert found.subject == subject.score(y, parts[1][1])
    assert found.direct == direct.score(y, parts[1][2])
    assert found.leak == leak.score(scaler.transform(others), parts[1][2])
    assert found.iterations == tuple(int(model.n_iter_[0]) for model in (subject, direct, leak))


def test_features_that_say_nothing_are_an_error() -> None:
    with pytest.raises(InputError, match="no feature varies"):
        standardise(np.ones((10, 3), dtype=np.float32), np.ones((2, 3), dtype=np.float32))
