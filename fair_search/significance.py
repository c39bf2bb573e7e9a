"""Whether a difference between two methods holds: bootstrap p-values, corrected for the number of methods.

Symbols: B bootstrap draws, M methods that are compared with the first.
"""

from __future__ import annotations

import numpy as np

LEVEL = 0.05  # a difference holds if its corrected p-value is below


def bootstrap_p(draws: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Two-sided p-value of a difference: how often its bootstrap draws are on the other side of 0.

    Parameters
    ----------
    draws : ndarray of shape (B, ...)
        The difference in each draw.
    value : ndarray of shape (...,)
        The difference in the data. Draws are moved so that their mean is this value, as for the interval
        (`bootstrap.interval`), so that p-value and interval agree.

    Returns
    -------
    ndarray of shape (...,)
        ``2 (1 + min(#{d ≤ 0}, #{d ≥ 0})) / (B + 1)``, at most 1 (Davison & Hinkley 1997, "Bootstrap Methods
        and their Application", section 4.4). It is never below ``2 / (B + 1)``.
    """
    moved = draws + (value - draws.mean(axis=0))
    other_side = np.minimum((moved <= 0).sum(axis=0), (moved >= 0).sum(axis=0))
    return np.minimum(1.0, 2 * (1 + other_side) / (len(draws) + 1))


def holm(p_values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Correct p-values for their number along an axis (Holm 1979, "A Simple Sequentially Rejective …").

    Parameters
    ----------
    p_values : ndarray
    axis : int
        The axis of the M comparisons that are made together.

    Returns
    -------
    ndarray
        Of the same shape: the i-th smallest of M times ``M − i + 1``, never below one before it, at most 1.
        All that are below a level hold together with at most that probability of a false one.
    """
    moved = np.moveaxis(p_values, axis, -1)
    order = np.argsort(moved, axis=-1, kind="stable")
    factors = np.arange(moved.shape[-1], 0, -1)
    steps = np.maximum.accumulate(np.take_along_axis(moved, order, -1) * factors, axis=-1)
    corrected = np.empty_like(steps)
    np.put_along_axis(corrected, order, np.minimum(steps, 1.0), axis=-1)
    return np.moveaxis(corrected, -1, axis)


def draws_needed(comparisons: int) -> int:
    """Smallest B with which one of so many comparisons can hold after Holm's correction."""
    return int(np.floor(2 * comparisons / LEVEL))
