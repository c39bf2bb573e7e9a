"""Equal scores at the K-th place: how far a figure depends on the order of rows, which decides between them.

Symbols: K depth, R random orders of the images whose scores are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

ORDERS = 200  # R
SEED = 0


class TiedScoresWarning(UserWarning):
    """Lists whose K-th score is that of further images; the message counts them, with the figures' range."""


@dataclass(frozen=True, eq=False)
class Tie:
    """A list that could have been another: its last images have the score of images that are not in it.

    Attributes
    ----------
    place : tuple of int
        Which list: positions along the leading axes of the lists.
    rows : ndarray of shape (t,), int64
        All images with the K-th score.
    taken : int
        How many of them the list holds, as its last ones; fewer than t.
    """

    place: tuple[int, ...]
    rows: np.ndarray
    taken: int


def figures_of_orders(
    values: Mapping[str, np.ndarray],
    lists: np.ndarray,
    ties: Sequence[Tie],
    judge: Callable[[np.ndarray, tuple[int, ...]], Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Judge lists under random orders of the images whose scores are equal.

    Parameters
    ----------
    values : mapping
        Figure → its value for each list, of the leading shape of `lists`.
    lists : ndarray of shape (..., K), int64
        Rows of the images, best first.
    ties : sequence of Tie
    judge : callable
        Lists ``(R, K)`` instead of one list, and its place → figure → values ``(R,)``.

    Returns
    -------
    dict
        Figure → its mean over all lists under each order, ``(R,)``. The orders are seeded.
    """
    random = np.random.default_rng(SEED)
    found = {name: np.full(ORDERS, of_lists.mean()) for name, of_lists in values.items()}
    for tie in ties:
        drawn = np.tile(lists[tie.place], (ORDERS, 1))
        for order in drawn:
            order[-tie.taken :] = random.choice(tie.rows, tie.taken, replace=False)
        for name, of_orders in judge(drawn, tie.place).items():
            found[name] += (of_orders - values[name][tie.place]) / values[name].size
    return found


def describe_ties(where: str, n_lists: int, n_tied: int, figures: Mapping[str, np.ndarray]) -> str:
    """Write the message of a `TiedScoresWarning`.

    Parameters
    ----------
    where : str
        Whose lists they are.
    n_lists, n_tied : int
        How many lists there are, and how many have a tie.
    figures : mapping
        As `figures_of_orders` gives them.
    """
    shown = "; ".join(
        f"mean {name} {values.min():.3f} to {values.max():.3f} (expected {values.mean():.3f})"
        for name, values in figures.items()
    )
    return (
        f"{where}: {n_tied} of {n_lists} lists have equal scores at the K-th place, so that the order of the "
        f"rows decides what they hold; over {ORDERS} random orders of the equal ones: {shown}"
    )
