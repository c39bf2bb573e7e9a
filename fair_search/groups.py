"""Who is on the images of an audit, and what they show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups that are compared.

    Attributes
    ----------
    attribute : str
        Name of the bias attribute.
    classes : tuple of str
        Names of the C groups.
    codes : ndarray of shape (N,), integer
        Group of each image, −1 where it is left out.
    """

    attribute: str
    classes: tuple[str, ...]
    codes: np.ndarray


@dataclass(frozen=True, eq=False)
class QueryLabels:
    """Labels that make precision known.

    Attributes
    ----------
    images : ndarray of shape (N,), integer
        Label code of each image, −1 for none.
    queries : ndarray of shape (Q,), integer
        Label code that each query asks for.
    """

    images: np.ndarray
    queries: np.ndarray

    def relevant(self, rows: np.ndarray) -> np.ndarray:
        """Which images of lists ``(…, Q, L)`` have their query's label; bool."""
        return self.images[rows] == self.queries[:, None]
