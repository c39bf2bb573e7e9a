"""Re-ranked lists of every fold, and the labels that they are made by: given, or predicted zero-shot.

Symbols: N images, m evaluation images of a fold, Q queries, C bias classes, K retrieved images.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.datasets.stored_images import StoredImages, chunks
from bias_evaluation.scoring.top_k import check_scores
from debiasing_methods.linalg import unit
from debiasing_methods.reranking import candidates, exact_shares, rerank, uniform_shares
from safe_io.documents import choices
from safe_io.errors import InputError

SHARES = ("data", "uniform")


def parse_shares(given: Sequence[str], n_classes: int, where: str) -> tuple[Fraction, ...] | None:
    """Read desired shares: 'data' (None: those of each fold), 'uniform', or a number for each class.

    Raises
    ------
    InputError
        It is none of these, or the numbers are not as many as the classes, or do not sum to 1.
    """
    if list(given) == ["data"]:
        return None
    if list(given) == ["uniform"]:
        return uniform_shares(n_classes)
    try:
        shares = exact_shares(given)
    except ValueError as error:
        raise InputError(f"{where}: {error}; choose {choices(SHARES)}, or a number for each class") from None
    total = sum(map(Fraction, given))
    if len(shares) != n_classes or total != 1:
        raise InputError(
            f"{where}: {len(shares)} shares with sum {float(total):g} for {n_classes} classes; give one for "
            f"each, with sum 1"
        )
    return shares


class Reranking:
    """Makes re-ranked lists of one result fold by fold, and counts what they could not keep.

    Parameters
    ----------
    algorithm : str
        One of `debiasing_methods.reranking.ALGORITHMS`.
    labels : ndarray of shape (N,), integer
        Classes that re-ranking sees, −1 for none.
    n_classes : int
        C.
    shares : tuple of Fraction, optional
        Desired shares; without them, those of the labels among the evaluation images of each fold.
    """

    def __init__(
        self, algorithm: str, labels: np.ndarray, n_classes: int, shares: tuple[Fraction, ...] | None = None
    ) -> None:
        self.algorithm, self.labels, self.n_classes, self.shares = algorithm, labels, n_classes, shares
        self._counts = dict.fromkeys(("short", "fallbacks", "below_floor", "above_ceiling"), 0)

    def __call__(self, scores: Tensor, rows: np.ndarray, k: int) -> np.ndarray:
        """Make the lists of one fold.

        Parameters
        ----------
        scores : Tensor of shape (Q, m)
        rows : ndarray of shape (m,)
            Rows of the fold's evaluation images; of equal scores the lower row comes first.
        k : int
            K.

        Returns
        -------
        ndarray of shape (Q, K), integer
            Rows, best first.

        Raises
        ------
        ValueError
            A score is not finite, or fewer than K images have a class (pbm).
        """
        check_scores(scores)
        ascending = np.argsort(rows)
        rows, values = rows[ascending], scores.cpu().numpy()[:, ascending]
        codes = self.labels[rows]
        sizes = np.bincount(codes[codes >= 0], minlength=self.n_classes)
        shares = self.shares or exact_shares(sizes.tolist())
        found = rerank(candidates(values, codes, k), codes, shares, k, self.algorithm)
        if found.short.any():
            raise ValueError(
                f"only {int((codes >= 0).sum())} images have a class, so {self.algorithm} cannot make lists "
                f"of K = {k}; choose a smaller K"
            )
        for name in self._counts:
            self._counts[name] += int(getattr(found, name).sum())
        return rows[found.positions]

    def report(self) -> dict[str, Any]:
        """Say how lists were made, and count over all of them what was not kept.

        Returns
        -------
        dict
            `rerank`, `shares` (one per class, or 'data'), `short` (lists with fewer than K images),
            `fallbacks` (steps), `below_floor` and `above_ceiling` (prefixes of lists).
        """
        shares = "data" if self.shares is None else [float(share) for share in self.shares]
        return {"rerank": self.algorithm, "shares": shares, **self._counts}


def predict_labels(
    images: StoredImages, prompts: Tensor, classes: Sequence[object], where: str
) -> np.ndarray:
    """Predict the bias class of every image zero-shot: the class prompt with the highest cosine.

    Parameters
    ----------
    images : StoredImages
        N images.
    prompts : Tensor of shape (C, d)
        Raw embeddings of one prompt for each class.
    classes : sequence
        Names of the C classes.
    where : str
        Whose labels they are, for the error line.

    Returns
    -------
    ndarray of shape (N,), int64

    Raises
    ------
    InputError
        All images get the same class, so that there is nothing to re-rank by.
    """
    text = unit(prompts.float()).T
    codes = torch.cat([(images.take(rows, normalize=True) @ text).argmax(1) for rows in chunks(len(images))])
    found = codes.cpu().numpy()
    if (found == found[0]).all():
        raise InputError(
            f"{where}: all {len(found)} images are predicted to be '{classes[found[0]]}', so predicted "
            f"labels cannot re-rank them; give labels (--rerank-labels given)"
        )
    return found
