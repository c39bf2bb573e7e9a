"""The probes of the disentanglement study: standardise, fit, and score on the held-out fold.

Symbols: n sentences, p features, K classes. In each fold a probe for the subject and one for the bias
attribute are fitted to the standardised features, and a third one, for the bias attribute, to the
standardised decision values of the first (SEM, arXiv:2603.19028, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from safe_io.errors import InputError

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of cross-validation and probes; the defaults are the study's.

    Attributes
    ----------
    folds, seed : int
        Of the cross-validation, which is stratified by subject and shuffled; the seed is the probes' too.
    C, tol : float
    max_iter : int
        As for scikit-learn's ``LogisticRegression``.
    """

    folds: int = 5
    seed: int = 42
    C: float = 1.0
    tol: float = 1e-4
    max_iter: int = 1000


@dataclass(frozen=True)
class FoldResult:
    """Test accuracies of one fold's probes, and how many iterations their fits took.

    Attributes
    ----------
    subject, direct, leak : float
        Accuracy of the subject, of the bias attribute from the features, and of the bias attribute from the
        subject probe's decision values.
    iterations : tuple of int
        In the same order.
    """

    subject: float
    direct: float
    leak: float
    iterations: tuple[int, int, int]


def check_sizes(sentences: int, subjects: int, biases: int, folds: int) -> None:
    """Raise `InputError` where cross-validation is not possible.

    Parameters
    ----------
    sentences, subjects, biases : int
        Number of sentences, of subjects, and of values of the bias attribute.
    folds : int
        Number of folds.
    """
    if biases < 2:
        raise InputError(f"a bias attribute needs at least two values to be read, found {biases}")
    if folds < 2:
        raise InputError(f"cross-validation needs at least 2 folds, got {folds}")
    if sentences < folds * subjects:
        raise InputError(
            f"{sentences} sentences are too few: {folds} folds × {subjects} subjects need at least "
            f"{folds * subjects}; add templates, or take fewer folds or subjects"
        )


def standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardise features (n, p) and (m, p) by the training part, in their dtype.

    Raises
    ------
    InputError
        No feature varies.
    """
    from sklearn.preprocessing import StandardScaler

    if (train == train[0]).all():
        raise InputError(
            "no feature varies over the sentences of a training part, so there is nothing to read"
        )
    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test)


def fit_probe(features: np.ndarray, codes: np.ndarray, settings: ProbeSettings) -> LogisticRegression:
    """Fit a probe to standardised features (n, p) and class codes (n,)."""
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(
        C=settings.C, tol=settings.tol, max_iter=settings.max_iter, random_state=settings.seed
    )
    return probe.fit(features, codes)


def run_fold(
    train: tuple[np.ndarray, np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray, np.ndarray],
    settings: ProbeSettings,
) -> FoldResult:
    """Fit the three probes of one fold and score them.

    Parameters
    ----------
    train, test : tuple of numpy.ndarray
        Features (n, p), subject codes (n,) and bias codes (n,) of a part.
    settings : ProbeSettings
    """
    features, test_features = standardise(train[0], test[0])
    subject, direct = (fit_probe(features, codes, settings) for codes in train[1:])
    decisions = (subject.decision_function(part) for part in (features, test_features))
    values, test_values = standardise(*(d.reshape(len(d), -1).astype(np.float64) for d in decisions))
    leak = fit_probe(values, train[2], settings)
    return FoldResult(
        subject=float(subject.score(test_features, test[1])),
        direct=float(direct.score(test_features, test[2])),
        leak=float(leak.score(test_values, test[2])),
        iterations=tuple(int(probe.n_iter_[0]) for probe in (subject, direct, leak)),
    )


def cross_validate(
    features: np.ndarray, subjects: np.ndarray, biases: np.ndarray, settings: ProbeSettings
) -> Iterator[FoldResult]:
    """Run the folds one by one.

    Parameters
    ----------
    features : numpy.ndarray of shape (n, p), float32 or float64
        Raw; not changed.
    subjects, biases : numpy.ndarray of int, shape (n,)
        Class codes, from 0, each of them there.
    settings : ProbeSettings

    Yields
    ------
    FoldResult
    """
    from sklearn.model_selection import StratifiedKFold

    check_sizes(len(features), len(np.unique(subjects)), len(np.unique(biases)), settings.folds)
    folds = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
    for train, test in folds.split(subjects, subjects):
        if len(np.unique(biases[train])) < biases.max() + 1:
            raise InputError(
                "a fold's training part lacks a value of the bias attribute; add templates, so that every "
                "subject has sentences with every value in it"
            )
        yield run_fold(
            (features[train], subjects[train], biases[train]),
            (features[test], subjects[test], biases[test]),
            settings,
        )
