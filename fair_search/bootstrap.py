"""Intervals of ranking metrics: images, or queries, drawn with replacement.

Symbols: N images, C groups, M methods, Q queries, L length of the lists, K ≤ L images that are judged, u
distinct images in the lists; w how often a draw holds an image.

To draw images is the ordinary bootstrap: N of N with replacement. The list of a draw is the old list with
each image as often as it was drawn, so its top K is known from the first L images of the old one, L a little
larger than K; the images in no list matter only through their number in each group. A draw thus takes the u
listed images one by one and the others group by group: time and memory do not grow with N. All methods and
queries share the draws, so that their differences have intervals too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def list_length(k: int, n_images: int) -> int:
    """Return L: the first L images of a list hold the top K of a draw, but for one list in 10⁷.

    Of L images a draw holds L on average, with a standard deviation below √L; L is K and 5.5 of these.
    """
    return min(n_images, k + int(np.ceil(5.5 * np.sqrt(k))) + 32)


def image_draws(
    rows: np.ndarray, codes: np.ndarray, population: np.ndarray, k: int, *, draws: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw images with replacement; give what is at the top of every list, and the new population.

    Parameters
    ----------
    rows : ndarray of shape (lists, L), int64
        Rows of the images, best first.
    codes : ndarray of shape (lists, L), integer
        Their groups.
    population : ndarray of shape (C,), int64
        Number of images of each group; the sum is N.
    k : int
        K.
    draws, seed : int
        How many draws, and the seed of the generator.

    Yields
    ------
    positions : ndarray of shape (lists, K), int64
        Positions in the old list of the K first of the new one.
    counts : ndarray of shape (C,), int64
        Number of images of each group in the draw.
    """
    listed, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    inverse = inverse.reshape(rows.shape)
    groups = codes.ravel()[first]
    n, n_groups = int(population.sum()), len(population)
    rest = population - np.bincount(groups, minlength=n_groups)
    random = np.random.default_rng(seed)
    for _ in range(draws):
        n_listed = random.binomial(n, len(listed) / n)
        # n_listed draws of u equal images: as fast as it gets, where `multinomial` takes one binomial each
        times = np.bincount(random.integers(len(listed), size=n_listed), minlength=len(listed))
        counts = np.bincount(groups, weights=times, minlength=n_groups).astype(np.int64)
        if rest.sum():
            counts += random.multinomial(n - n_listed, rest / rest.sum())
        yield _top_positions(times[inverse], k), counts


def _top_positions(times: np.ndarray, k: int) -> np.ndarray:
    """Repeat each position of a list `times` times and keep the first K; ``(lists, L)`` → ``(lists, K)``."""
    lists, length = times.shape
    repeated = np.repeat(np.tile(np.arange(length), lists), times.ravel())
    totals = times.sum(axis=1)
    starts = np.cumsum(totals) - totals
    # the one list in 10⁷ that is too short repeats its last image
    inside = np.minimum(np.arange(k), np.maximum(totals[:, None], 1) - 1)
    return repeated[np.minimum(starts[:, None] + inside, len(repeated) - 1)]


def query_draws(n_queries: int, *, draws: int, seed: int) -> np.ndarray:
    """Draw queries with replacement; ``(draws, Q)`` positions."""
    return np.random.default_rng(seed).integers(n_queries, size=(draws, n_queries))


def interval(
    draws: np.ndarray, value: np.ndarray, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap interval: the percentiles of the draws, moved so that their mean is the value.

    Parameters
    ----------
    draws : ndarray of shape (B, ...)
        The statistic of each draw.
    value : ndarray of shape (...,)
        The statistic of the data.
    bounds : tuple of float
        Lowest and highest possible value; the interval is cut there.

    Returns
    -------
    low, high : ndarray of shape (...,)

    Notes
    -----
    Chance alone makes shares unequal, so that KL, NDKL and the skews lie above zero even in random order, and
    those of a draw, which has chance twice, above those of the data. The interval is for what the same
    measurement, at this K, would give on average over other images of the same kind: it says how far chance
    moves the value, not how much of the value is chance (`fairness_metrics.random_order` says that). Plain
    percentiles, and bias-corrected ones, often do not even hold the value where groups are treated alike.
    `benchmarks/audit_intervals.py` measures the coverage.
    """
    low, high = np.percentile(draws, [2.5, 97.5], axis=0) + (value - draws.mean(axis=0))
    return np.clip(low, *bounds), np.clip(high, *bounds)
