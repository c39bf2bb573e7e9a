"""Settings of an audit and their defaults; light, so that a command shows its options at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNITS = ("images", "queries")
DESIRED = ("data", "uniform")
REFERENCE_PER_GROUP = 1000
SHOWN_IMAGES = 20
FEW_IMAGES = 30  # a group with fewer says little
MAX_LOSS = {"precision": 0.05, "overlap": 0.5}
"""Loss of utility that is allowed by default: of precision, or of overlap (which starts at 1)."""


@dataclass(frozen=True)
class AuditSettings:
    """How lists are judged.

    Attributes
    ----------
    ks : tuple of int
        Depths K.
    desired : str
        Desired shares of the groups: ``data``, theirs among all images, or ``uniform``, 1/C each.
    bootstrap : str
        What a mean's interval draws: ``images`` (other images, these queries) or ``queries`` (these images,
        other queries). The interval of a single query always draws images.
    draws : int
        B.
    seed : int
        Of the bootstrap and of the random order.
    """

    ks: tuple[int, ...] = (10, 50, 100)
    desired: str = "data"
    bootstrap: str = "images"
    draws: int = 1000
    seed: int = 0

    def shares(self, population: np.ndarray) -> np.ndarray:
        """Desired shares ``(C,)`` for a population ``(C,)``."""
        return np.full(len(population), 1 / len(population)) if self.desired == "uniform" else population
