"""Fairness and utility metrics on integer-coded labels, and their intervals.

Symbols: F folds, Q queries, K retrieved images, C bias classes; p_c share of class c among the retrieved,
π_c its share among the fold's evaluation images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import stdtrit  # Student's t quantile; scipy.stats would take a second to import

from safe_io.errors import InputError

BOOTSTRAP_DRAWS = 1000
BOOTSTRAP_SEED = 0
_SMALLEST_RATIO = 1e-10  # keeps the logarithm of an absent class finite, as in the published code


def class_shares(codes: np.ndarray, n_classes: int) -> np.ndarray:
    """Share of each class along the last axis.

    Parameters
    ----------
    codes : ndarray of shape (..., K), integer
        Class codes 0 … C − 1.
    n_classes : int
        C.

    Returns
    -------
    ndarray of shape (..., C), float64
        Rows sum to 1.
    """
    flat = codes.reshape(-1, codes.shape[-1])
    offsets = np.arange(len(flat))[:, None] * n_classes
    counts = np.bincount((flat + offsets).ravel(), minlength=len(flat) * n_classes)
    return counts.reshape(*codes.shape[:-1], n_classes) / codes.shape[-1]


def class_priors(codes: np.ndarray, classes: Sequence[object], fold: int) -> np.ndarray:
    """Share of each bias class among a fold's evaluation images.

    Raises
    ------
    InputError
        A class has no evaluation image in the fold, so that it has no prior.
    """
    prior = class_shares(codes, len(classes))
    empty = np.flatnonzero(prior == 0)
    if len(empty):
        raise InputError(
            f"bias class '{classes[empty[0]]}' has no evaluation image in fold {fold}, so its retrieval "
            f"cannot be judged; use folds that hold every class, or drop the class from the config"
        )
    return prior


def log_ratios(shares: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """``ln(max(p_c / π_c, 1e-10))`` for shares ``(..., C)`` and priors ``(C,)``."""
    return np.log(np.maximum(shares / priors, _SMALLEST_RATIO))


def kl_divergence(shares: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """``Σ_c p_c ln(max(p_c / π_c, 1e-10))`` in nats; 0 is fair (SEM, section 4.1)."""
    return (shares * log_ratios(shares, priors)).sum(-1)


def max_skew(shares: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """``max(0, max_c ln(max(p_c / π_c, 1e-10)))``; 0 is fair (Geyik et al. 2019)."""
    return np.maximum(0.0, log_ratios(shares, priors).max(-1))


def mean_and_ci(mean: float, variance: float, n: int) -> tuple[float, float | None]:
    """Half-width of the 95 % Student-t interval of a mean.

    Parameters
    ----------
    mean : float
        Mean of the records.
    variance : float
        Their variance, ddof 1.
    n : int
        Their number.

    Returns
    -------
    mean : float
    ci : float or None
        ``sem · t₀.₉₇₅(n − 1)``; None of a single record, which has no spread.

    Notes
    -----
    The folds overlap, so the records are not independent and the interval is narrower than the true
    uncertainty.
    """
    if n < 2:
        return float(mean), None
    return float(mean), float(np.sqrt(variance / n) * stdtrit(n - 1, 0.975))


def summarize(records: np.ndarray) -> tuple[float, float | None]:
    """Mean and half-width of the 95 % interval over all entries of an array."""
    records = np.asarray(records, np.float64).ravel()
    variance = records.var(ddof=1) if records.size > 1 else 0.0
    return mean_and_ci(records.mean(), variance, records.size)


def summarize_hits(hits: int, n: int) -> tuple[float, float | None]:
    """As `summarize`, for n records of which `hits` are 1 and the others 0."""
    mean = hits / n
    return mean_and_ci(mean, mean * (1 - mean) * n / max(n - 1, 1), n)


def bootstrap_over_folds(statistic: Callable[[np.ndarray], np.ndarray], n_folds: int) -> list[float] | None:
    """95 % percentile interval of a statistic when whole folds are drawn with replacement.

    Parameters
    ----------
    statistic : callable
        Fold numbers ``(draws, F)`` → the statistic of each draw ``(draws,)``.
    n_folds : int
        F.

    Returns
    -------
    list of float or None
        Lower and upper end; None of a single fold.

    Notes
    -----
    It takes a fold's records together, as `summarize` does not; folds overlap all the same. The draws are
    seeded, so that results repeat.
    """
    if n_folds < 2:
        return None
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(n_folds, size=(BOOTSTRAP_DRAWS, n_folds))
    return np.percentile(statistic(draws), [2.5, 97.5]).tolist()
