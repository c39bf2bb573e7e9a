"""Fairness of ranked lists: KL, MaxSkew, MinSkew, NDKL, demographic-parity ratio; precision and overlap.

Symbols: K images from the top of a list, C groups; p_c share of group c among the K, π_c its desired share,
σ_c its share among all images. The metrics are those of Geyik et al. 2019, "Fairness-Aware Ranking in Search
& Recommendation Systems", arXiv:1905.01989, sections 3 and 4; logarithms are natural, in nats, except NDKL's
discount.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bias_evaluation.scoring.metrics import class_shares, kl_divergence, log_ratios, max_skew


@dataclass(frozen=True)
class Metric:
    """How a metric is named, read and explained.

    Attributes
    ----------
    name, label : str
        Its name in tables of results, and for people.
    fair : float or None
        Its value for a list in which every group has its desired share; None of a measure of utility.
    better : str
        ``lower``, ``higher`` or ``near 0``.
    bounds : tuple of float
        Lowest and highest possible value.
    meaning : str
        One sentence for someone who has not read the paper.
    """

    name: str
    label: str
    fair: float | None
    better: str
    bounds: tuple[float, float]
    meaning: str


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("kl", "KL", 0.0, "lower", (0.0, np.inf),
               "How far the groups' shares among the K images are from the desired ones, all groups together "
               "(Kullback–Leibler divergence)."),
        Metric("max_skew", "MaxSkew", 0.0, "lower", (0.0, np.inf),
               "The most over-represented group: logarithm of its share over its desired share; 0.69 is "
               "twice too many."),
        Metric("min_skew", "MinSkew", 0.0, "near 0", (-np.inf, 0.0),
               "The most under-represented group: −0.69 is half of what it should be. A group with no image "
               "counts as half an image, or as half its desired share where that is less."),
        Metric("ndkl", "NDKL", 0.0, "lower", (0.0, np.inf),
               "KL of every top part of the list, from the first image to the K-th, averaged with more "
               "weight on the first."),
        Metric("dp_ratio", "Parity ratio", 1.0, "higher", (0.0, 1.0),
               "Chance of being retrieved in the worst-served group over that in the best-served one; 0 "
               "where a group is absent (demographic parity)."),
        Metric("exposure_ratio", "Exposure ratio", 1.0, "higher", (0.0, 1.0),
               "The parity ratio with ranks counted: an image at rank i has exposure 1/log₂(1 + i), since "
               "people look at the first images most."),
        Metric("exposure_difference", "Exposure gap", 0.0, "lower", (0.0, np.inf),
               "Exposure of the best-served group minus that of the worst-served one, each over the group's "
               "share of all images (1 is fair for each); 0.5 is half a fair share."),
        Metric("precision", "Precision", None, "higher", (0.0, 1.0),
               "Share of the K images that have the label of the query."),
        Metric("overlap", "Overlap", None, "higher", (0.0, 1.0),
               "Share of the K images that the first method retrieves too: how much of the search stays as "
               "it was."),
    )
}  # fmt: skip
"""All metrics, in the order of the tables."""

FAIRNESS = tuple(name for name, metric in METRICS.items() if metric.fair is not None)


def min_skew(shares: np.ndarray, desired: np.ndarray, k: int) -> np.ndarray:
    """``min_c ln(p_c / π_c)`` of lists of K images; 0 is fair, −0.69 half as many as desired.

    Parameters
    ----------
    shares : ndarray of shape (..., C)
        p_c.
    desired : ndarray of shape (C,)
        π_c; groups with π_c = 0 are left out.
    k : int
        K.

    Returns
    -------
    ndarray of shape (...,)

    Notes
    -----
    A group without an image has ln 0. It counts as half an image (1/2K) instead, or as half its desired share
    where that is less (a group so rare that K images need not hold any), so that the value is finite, lower
    than with an image, and does not drown all others in a mean. As defined, MinSkew is never above 0.
    """
    safe = np.where(desired > 0, desired, 1.0)
    ratios = log_ratios(np.maximum(shares, np.minimum(0.5 / k, safe / 2)), safe)
    return np.minimum(0.0, np.where(desired > 0, ratios, np.inf).min(-1))


def parity_ratio(shares: np.ndarray, population: np.ndarray) -> np.ndarray:
    """Demographic-parity ratio ``min_c r_c / max_c r_c``, ``r_c ∝ p_c / σ_c`` the rate of being retrieved.

    It compares rates among all images, whatever the desired shares are. 1 is fair; 0: a group is absent.

    Parameters
    ----------
    shares : ndarray of shape (..., C)
        p_c.
    population : ndarray of shape (C,)
        σ_c; groups with σ_c = 0 are left out.
    """
    rates = shares[..., population > 0] / population[population > 0]
    return rates.min(-1) / rates.max(-1)


def exposure_shares(codes: np.ndarray, n_groups: int, ks: Sequence[int]) -> np.ndarray:
    """Each group's share of the exposure of a list: ``Σ_{i ≤ K, g_i = c} v_i / Σ_{i ≤ K} v_i``.

    The exposure of rank i is ``v_i = 1 / log₂(1 + i)`` (Singh & Joachims 2018, "Fairness of Exposure in
    Rankings", arXiv:1802.07281, section 3).

    Parameters
    ----------
    codes : ndarray of shape (..., K_max), integer
        Groups of the images, best first.
    n_groups : int
        C.
    ks : sequence of int
        Depths K, each at most K_max.

    Returns
    -------
    ndarray of shape (..., len(ks), C)
        Rows sum to 1.
    """
    length = max(ks)
    exposure = 1 / np.log2(np.arange(2, length + 2))
    at = np.asarray(ks) - 1
    total = np.cumsum(exposure)[at]
    shares = [
        np.cumsum((codes[..., :length] == code) * exposure, axis=-1)[..., at] / total
        for code in range(n_groups)
    ]
    return np.stack(shares, axis=-1)


def ndkl(codes: np.ndarray, desired: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Normalised discounted KL: ``Σ_i KL(p^i ‖ π) / log₂(i + 1) / Σ_i 1 / log₂(i + 1)``, i = 1 … K.

    Parameters
    ----------
    codes : ndarray of shape (..., K_max), integer
        Groups of the images, best first.
    desired : ndarray of shape (C,)
        π_c.
    ks : sequence of int
        Depths K at which the list is cut, each at most K_max.

    Returns
    -------
    ndarray of shape (..., len(ks))

    Notes
    -----
    Of counts m_c among i images, ``i · KL = Σ m_c ln m_c − i ln i − Σ m_c ln π_c``; the first term is looked
    up in a table.
    """
    length = max(ks)
    position = np.arange(1, length + 1)
    table = np.arange(length + 1) * np.log(np.maximum(np.arange(length + 1), 1))
    total = np.zeros((*codes.shape[:-1], length))
    for code, share in enumerate(desired):
        counts = np.cumsum(codes[..., :length] == code, axis=-1)
        total += table[counts] - counts * (np.log(share) if share > 0 else 0.0)
    divergence = total / position - np.log(position)
    discount = 1 / np.log2(position + 1)
    at = np.asarray(ks) - 1
    return np.cumsum(divergence * discount, axis=-1)[..., at] / np.cumsum(discount)[at]


def fairness_at(
    codes: np.ndarray, desired: np.ndarray, population: np.ndarray, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """All fairness metrics of ranked lists.

    Parameters
    ----------
    codes : ndarray of shape (..., K_max), integer
        Groups 0 … C − 1 of the images of each list, best first.
    desired : ndarray of shape (C,)
        π_c, sum 1. Where it is 0, no list may hold the group.
    population : ndarray of shape (C,)
        σ_c, sum 1.
    ks : sequence of int
        Depths K, each at most K_max.

    Returns
    -------
    dict
        Name of each metric in `FAIRNESS` → ndarray of shape (..., len(ks)).

    Raises
    ------
    ValueError
        A K is smaller than 1 or larger than the lists.
    """
    if min(ks) < 1 or max(ks) > codes.shape[-1]:
        raise ValueError(f"K = {', '.join(map(str, ks))} for lists of {codes.shape[-1]} images")
    safe = np.where(desired > 0, desired, 1.0)
    columns: dict[str, list[np.ndarray]] = {"kl": [], "max_skew": [], "min_skew": [], "dp_ratio": []}
    present = population > 0
    exposed = exposure_shares(codes, len(desired), ks)[..., present] / population[present]
    for k in ks:
        shares = class_shares(codes[..., :k], len(desired))
        columns["kl"].append(kl_divergence(shares, safe))
        columns["max_skew"].append(max_skew(shares, safe))
        columns["min_skew"].append(min_skew(shares, desired, k))
        columns["dp_ratio"].append(parity_ratio(shares, population))
    found = {name: np.stack(values, axis=-1) for name, values in columns.items()}
    found["ndkl"] = ndkl(codes, desired, ks)
    found["exposure_ratio"] = exposed.min(-1) / exposed.max(-1)
    found["exposure_difference"] = exposed.max(-1) - exposed.min(-1)
    return {name: found[name] for name in FAIRNESS}


def random_order(
    codes: np.ndarray,
    n_lists: int,
    desired: np.ndarray,
    population: np.ndarray,
    ks: Sequence[int],
    *,
    draws: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Fairness of lists in random order: what a search that ignores the groups gets by chance.

    A list of K images cannot hold exact shares: KL of a random order is about (C − 1) / 2K, not 0.

    Parameters
    ----------
    codes : ndarray of shape (N,), integer
        Group of every image.
    n_lists : int
        Q: lists whose mean is one draw, as many as there are queries.
    desired, population : ndarray of shape (C,)
    ks : sequence of int
    draws, seed : int

    Returns
    -------
    dict
        Metric → means over the lists, ``(draws, len(ks))``.
    """
    random = np.random.default_rng(seed)
    means: dict[str, list[np.ndarray]] = {name: [] for name in FAIRNESS}
    for _ in range(draws):
        lists = np.stack([codes[random.choice(len(codes), max(ks), replace=False)] for _ in range(n_lists)])
        for name, values in fairness_at(lists, desired, population, ks).items():
            means[name].append(values.mean(axis=0))
    return {name: np.stack(values) for name, values in means.items()}
