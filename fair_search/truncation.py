"""Texts that are too long for the model: counted, and reported in one warning."""

from __future__ import annotations

import warnings
from dataclasses import astuple, dataclass


class TruncatedTextWarning(UserWarning):
    """Texts have more tokens than the model reads; the message counts them."""


@dataclass(frozen=True)
class Truncation:
    """How many queries, and how many sentences made from them, are too long for the model, of how many."""

    queries: int = 0
    of_queries: int = 0
    sentences: int = 0
    of_sentences: int = 0

    def __add__(self, other: Truncation) -> Truncation:
        """Add the counts of other queries."""
        return Truncation(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def warn(self, stacklevel: int) -> None:
        """Warn, in one line, where anything is too long."""
        if not self.queries and not self.sentences:
            return
        made = f", and {self.sentences} of {self.of_sentences} sentences made from them"
        warnings.warn(
            f"{self.queries} of {self.of_queries} queries{made if self.of_sentences else ''} have more "
            f"tokens than the model reads; their ends were cut off",
            TruncatedTextWarning,
            stacklevel=stacklevel + 1,
        )
