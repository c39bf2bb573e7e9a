"""Fair re-ranking: the top K of ranked lists, drawn so that every class gets a share that was asked for.

Embeddings play no part in it: any method's ranking goes in, with the class of every image. Embedding methods
move shares without a promise. Re-ranking gives the shares that were asked for, so it is the ceiling to
measure them against.

Symbols: Q lists, n images, C classes, K length of the result, p_c desired share of class c, n_c how many
images of class c a list holds so far, s_c the best image of class c that is not in it yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

ALGORITHMS = ("detgreedy", "detcons", "detrelaxed", "pbm")
"""Names of the algorithms, as in ``<method>+detcons``."""

DISPLAY_NAMES = {"detgreedy": "DetGreedy", "detcons": "DetCons", "detrelaxed": "DetRelaxed", "pbm": "PBM"}
"""Names in tables and figures."""

STARTS = ("first", "best")


@dataclass(frozen=True, eq=False)
class Reranked:
    """Re-ranked lists, and what they could not keep.

    Attributes
    ----------
    positions : ndarray of shape (Q, K), int64
        Positions among the n images, best first; −1 after the end of a list that is too short.
    fallbacks : ndarray of shape (Q,), int64
        Steps that took the best remaining image of all, since no class that was due had one.
    below_floor, above_ceiling : ndarray of shape (Q,), int64
        Prefixes k = 1 … K in which a class has fewer than ⌊k p_c⌋, or more than ⌈k p_c⌉, images.
    """

    positions: np.ndarray
    fallbacks: np.ndarray
    below_floor: np.ndarray
    above_ceiling: np.ndarray

    @property
    def short(self) -> np.ndarray:
        """Whether a list has fewer than K images, ``(Q,)`` bool: too few images have a class (pbm)."""
        return self.positions[:, -1] < 0


def exact_shares(values: Sequence[int | float | str | Fraction]) -> tuple[Fraction, ...]:
    """Turn counts, decimals or fractions into shares that sum to exactly 1.

    Parameters
    ----------
    values : sequence of int, float, str or Fraction
        Weights of the classes. A float counts as the decimal that it prints as: 0.29 is 29/100.

    Returns
    -------
    tuple of Fraction

    Raises
    ------
    ValueError
        A value is negative or no finite number, or all are 0.
    """
    try:
        weights = [Fraction(str(value)) for value in values]
    except ValueError:
        raise ValueError(f"shares must be numbers, got {', '.join(map(str, values))}") from None
    total = sum(weights, Fraction(0))
    if total <= 0 or min(weights) < 0:
        raise ValueError(f"shares must be at least 0 and not all 0, got {', '.join(map(str, values))}")
    return tuple(weight / total for weight in weights)


def uniform_shares(n_classes: int) -> tuple[Fraction, ...]:
    """Return 1/C for each of C classes."""
    return (Fraction(1, n_classes),) * n_classes


def rerank(
    order: np.ndarray,
    labels: np.ndarray,
    shares: Sequence[Fraction],
    k: int,
    algorithm: str = "detcons",
    *,
    start: str = "first",
) -> Reranked:
    """Re-rank lists.

    Parameters
    ----------
    order : ndarray of shape (Q, m), integer
        Positions of images, best first, no position twice in a list: all n images or, since no result needs
        more, those that hold the best min(K, size) images of each class (`candidates`).
    labels : ndarray of shape (n,), integer
        Class 0 … C − 1 of each image; −1 where it is not known. Images without a class have share 0: the
        deterministic algorithms take them only as a fallback, `pbm` drops them.
    shares : sequence of Fraction, length C
        p_c, sum 1 (`exact_shares`). `pbm` has equal shares only.
    k : int
        K, at most m.
    algorithm : str
        One of `ALGORITHMS`.
    start : str
        Whose turn is first in `pbm`: class 0 (``first``), or the class of the best image (``best``).

    Returns
    -------
    Reranked

    Raises
    ------
    ValueError
        K, the shares, a label or a name is not allowed.

    Notes
    -----
    For k = 1 … K let Min be the classes that still have images with ``n_c < ⌊k p_c⌋``, and Max those with
    ``⌊k p_c⌋ ≤ n_c < ⌈k p_c⌉``. If Min is not empty, the best s_c of Min is next. Otherwise the next is, of
    Max, the best s_c (`detgreedy`), that of least ``⌈k p_c⌉ / p_c`` (`detcons`), or that of least
    ``⌈⌈k p_c⌉ / p_c⌉`` (`detrelaxed`); ties go to the best s_c. If Max is empty too (a class is used up, or
    its share is 0), the best remaining image of all is next, and the step counts as a fallback. Source:
    Geyik et al. 2019, arXiv:1905.01989. That `detcons` takes the *least* is our reading, uncertain: it is the
    rank at which the class's next floor falls due, and unlike the largest it keeps the floors.

    `pbm` (Kong et al. 2023, arXiv:2305.19329) takes the best image of each class in turn. Two classes are
    published; more classes, the option `start`, and full lists after a class is used up are ours. Published
    lists end there.

    While every class has images, ceilings hold at every k. Floors hold for `detcons` and `detrelaxed`; for
    `detgreedy` only up to three classes. Violations are counted. Floors are in exact arithmetic: in floats
    0.29 · 100 has the floor 28. All of this holds for the labels that are given here: where they are
    predicted, only for predictions.
    """
    shares = tuple(shares)
    _check(order, labels, shares, k, algorithm, start)
    n_groups = len(shares) + 1  # the last: images without a class
    codes = np.where(labels < 0, len(shares), labels)[order]
    queues = _queues(codes, n_groups, k)
    if algorithm == "pbm":
        queues[:, -1] = order.shape[1]  # dropped
        best = _first_class(codes, len(shares))
        choose = _in_turn(best if start == "best" else np.zeros_like(best), len(shares))
    else:
        choose = _by_quota(shares, k, algorithm)
    return _fill(order, queues, choose, _bounds(shares, k), k)


def candidates(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Rank the images that a re-ranked top K may hold: the best min(K, size) of each class.

    Parameters
    ----------
    scores : ndarray of shape (Q, n)
        Finite.
    labels : ndarray of shape (n,), integer
        −1 counts as a class of its own.
    k : int
        K.

    Returns
    -------
    ndarray of shape (Q, m), int64
        Positions, best first; of equal scores the lower position.
    """
    parts = []
    for code in np.unique(labels):
        members = np.flatnonzero(labels == code)
        if len(members) > k:
            own = scores[:, members]
            bound = -np.partition(-own, k - 1, axis=1)[:, k - 1 : k]
            above = own > bound
            free = k - above.sum(1, keepdims=True)
            tied = own == bound
            chosen = above | (tied & (np.cumsum(tied, axis=1) <= free))
            parts.append(members[np.nonzero(chosen)[1].reshape(-1, k)])
        else:
            parts.append(np.broadcast_to(members, (len(scores), len(members))))
    found = np.sort(np.concatenate(parts, axis=1), axis=1)
    best = np.argsort(-np.take_along_axis(scores, found, 1), axis=1, kind="stable")
    return np.take_along_axis(found, best, 1)


def _check(
    order: np.ndarray, labels: np.ndarray, shares: tuple[Fraction, ...], k: int, algorithm: str, start: str
) -> None:
    for what, name, known in (("algorithm", algorithm, ALGORITHMS), ("start", start, STARTS)):
        if name not in known:
            raise ValueError(f"unknown {what} '{name}'; choose from: {', '.join(known)}")
    if not 1 <= k <= order.shape[1]:
        raise ValueError(f"K = {k} images cannot be taken from lists of {order.shape[1]}")
    if not all(isinstance(share, Fraction) for share in shares) or sum(shares) != 1 or min(shares) < 0:
        raise ValueError("shares must be fractions of at least 0 with sum 1; exact_shares makes them")
    if labels.min(initial=0) < -1 or labels.max(initial=0) >= len(shares):
        raise ValueError(
            f"labels must be -1 or classes 0 to {len(shares) - 1} (there are {len(shares)} shares)"
        )
    if algorithm == "pbm" and len(set(shares)) > 1:
        raise ValueError("pbm gives all classes the same share; choose uniform shares, or another algorithm")


def _queues(codes: np.ndarray, n_groups: int, k: int) -> np.ndarray:
    """Places in its list of each class's images, best first: ``(Q, C + 1, K + 1)``, filled up with m."""
    n_lists, length = codes.shape
    queues = np.full((n_lists, n_groups, k + 1), length)
    for group in range(n_groups):
        mine = codes == group
        rank = np.cumsum(mine, axis=1)
        lists, places = np.nonzero(mine & (rank <= k))
        queues[lists, group, rank[lists, places] - 1] = places
    return queues


# Step, images of each class so far, places of the best ones left, which are left → class, whether it was due.
Chooser = Callable[[int, np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _fill(
    order: np.ndarray, queues: np.ndarray, choose: Chooser, bounds: tuple[np.ndarray, np.ndarray], k: int
) -> Reranked:
    """Take one image after the other into all lists; `choose` says of which class."""
    n_lists, n_groups, _ = queues.shape
    lists, end = np.arange(n_lists), order.shape[1]
    counts = np.zeros((n_lists, n_groups), np.int64)
    heads = queues[:, :, 0].copy()
    groups, places = np.empty((2, n_lists, k), np.int64)
    fallbacks = np.zeros(n_lists, np.int64)
    for step in range(k):
        chosen, due = choose(step, counts[:, :-1], heads[:, :-1], heads[:, :-1] < end)
        if not due.all():
            chosen = np.where(due, chosen, heads.argmin(1))
            fallbacks += ~due & (heads[lists, chosen] < end)
        places[:, step], groups[:, step] = heads[lists, chosen], chosen
        counts[lists, chosen] += 1
        heads[lists, chosen] = queues[lists, chosen, counts[lists, chosen]]
    there = places < end
    positions = np.where(there, np.take_along_axis(order, np.minimum(places, end - 1), 1), -1)
    floors, ceilings = bounds
    held = ((groups[..., None] == np.arange(n_groups - 1)) & there[..., None]).cumsum(1)  # (Q, K, C)
    below, above = ((held < floors).any(2).sum(1), (held > ceilings).any(2).sum(1))
    return Reranked(positions, fallbacks, below, above)


def _by_quota(shares: tuple[Fraction, ...], k: int, algorithm: str) -> Chooser:
    """Choose by floors and ceilings; among Max by the algorithm's key, then by the better image."""
    (floors, ceilings), keys = _bounds(shares, k), _keys(shares, k, algorithm)

    def choose(
        step: int, counts: np.ndarray, heads: np.ndarray, left: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        wanting = left & (counts < floors[step])
        urgent = wanting.any(1, keepdims=True)
        allowed = left & (counts >= floors[step]) & (counts < ceilings[step])
        end = heads.max() + 1
        rank = np.where(urgent, heads, keys[step] * end + heads)
        never = end * (len(shares) + 1)
        rank = np.where(np.where(urgent, wanting, allowed), rank, never)
        return rank.argmin(1), rank.min(1) < never

    return choose


@lru_cache(maxsize=64)
def _bounds(shares: tuple[Fraction, ...], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Floors ⌊k p_c⌋ and ceilings ⌈k p_c⌉ for k = 1 … K, each ``(K, C)``."""
    steps = range(1, k + 1)
    floors = [[i * p.numerator // p.denominator for p in shares] for i in steps]
    ceilings = [[-(-i * p.numerator // p.denominator) for p in shares] for i in steps]
    return np.array(floors), np.array(ceilings)


@lru_cache(maxsize=64)
def _keys(shares: tuple[Fraction, ...], k: int, algorithm: str) -> np.ndarray:
    """Order of the classes of Max by the algorithm's key at each k, ``(K, C)``; equal keys are equal."""
    ceilings = _bounds(shares, k)[1]
    keys = np.zeros(ceilings.shape, np.int64)
    if algorithm == "detgreedy":
        return keys
    common = math.lcm(*(p.numerator for p in shares if p))
    scale = [p.denominator * (common // p.numerator) if p else 0 for p in shares]  # 1 / p_c in 1 / common
    for step, row in enumerate(ceilings.tolist()):
        due = [n * each for n, each in zip(row, scale, strict=True)]
        if algorithm == "detrelaxed":
            due = [-(-rank // common) for rank in due]
        place = {value: i for i, value in enumerate(sorted(set(due)))}
        keys[step] = [place[value] for value in due]
    return keys


def _in_turn(first: np.ndarray, n_classes: int) -> Chooser:
    """Choose the classes in turn, from the first class of each list on."""

    def choose(
        step: int, counts: np.ndarray, heads: np.ndarray, left: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        turn = (first + step) % n_classes
        return turn, np.take_along_axis(left, turn[:, None], 1)[:, 0]

    return choose


def _first_class(codes: np.ndarray, n_classes: int) -> np.ndarray:
    """Class of the best image of each list that has one; 0 if none has."""
    known = codes < n_classes
    best = codes[np.arange(len(codes)), known.argmax(1)]
    return np.where(known.any(1), best, 0)
