"""A random forest on labelled images: which coordinates show the class, and whose class is uncertain.

Symbols: n labelled rows, d embedding dimension, τ threshold of the largest class probability.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from debiasing_methods.base import ReferenceImages
from debiasing_methods.labelled import FoldFits, LabelledRows
from debiasing_methods.linalg import unit

TREES = 100
_SLACK = 1e-12  # 70 of 100 trees are a probability of 0.7, but for rounding
_FITS = FoldFits()  # spd and sfid grow the same forests


@dataclass(frozen=True)
class ForestOptions:
    """How a forest is grown and asked.

    Attributes
    ----------
    holdout : float or None
        Share of the rows that the forest does not see and that alone are asked; None: every row is asked of
        the trees that did not see it (out of bag).
    max_samples : int or None
        Rows that each tree sees, if there are more; None: as many as there are, drawn with repetition.
    """

    holdout: float | None = None
    max_samples: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise ValueError(f"holdout must lie strictly between 0 and 1, got {self.holdout}")
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"max_samples must be at least 1, got {self.max_samples}")


@dataclass(frozen=True, eq=False)
class ForestFit:
    """What a forest says of its rows.

    Attributes
    ----------
    importances : Tensor of shape (d,), float64
        Impurity importance of each coordinate.
    largest : Tensor of shape (n,), float64
        Largest class probability of each row; NaN for a row that was not asked.
    """

    importances: Tensor
    largest: Tensor


def forest_of_fold(
    rows: LabelledRows, reference: ReferenceImages | None, fold: int, options: ForestOptions
) -> ForestFit:
    """Grow the forest of a fold, once for all methods that ask for it."""
    return _FITS.get(reference, (fold, options), lambda: grow_forest(rows.images, rows.labels, options))


def grow_forest(images: Tensor, labels: Tensor, options: ForestOptions) -> ForestFit:
    """Grow a forest of scikit-learn with its defaults: 100 trees, ``random_state=0``.

    Parameters
    ----------
    images : Tensor of shape (n, d)
        Of any length; they are taken as unit, in float32.
    labels : LongTensor of shape (n,)
    options : ForestOptions
    """
    from sklearn.model_selection import train_test_split

    x, y = unit(images.to(torch.float32)).cpu().numpy(), labels.cpu().numpy()
    largest, everyone = np.full(len(y), np.nan), np.arange(len(y))
    if options.holdout is None:
        forest = _fitted(x, y, options, oob_score=True)
        largest = forest.oob_decision_function_.max(axis=1)
    else:
        fitted, asked = train_test_split(everyone, test_size=options.holdout, random_state=0, stratify=y)
        forest = _fitted(x[fitted], y[fitted], options, oob_score=False)
        largest[asked] = forest.predict_proba(x[asked]).max(axis=1)
    tensors = (torch.from_numpy(a).to(images.device) for a in (forest.feature_importances_, largest))
    return ForestFit(*tensors)


def _fitted(x: np.ndarray, y: np.ndarray, options: ForestOptions, *, oob_score: bool):
    from sklearn.ensemble import RandomForestClassifier

    limit = options.max_samples
    forest = RandomForestClassifier(
        n_estimators=TREES,
        random_state=0,
        oob_score=oob_score,
        max_samples=None if limit is None or limit >= len(y) else limit,
        n_jobs=torch.get_num_threads(),  # changes no value
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Some inputs do not have OOB scores"
        )  # then it is not asked
        return forest.fit(x, y)


def uncertain_mean(images: Tensor, largest: Tensor, tau: float, method: str) -> Tensor:
    """Average the unit rows whose class the forest is unsure of, x̄_low.

    Parameters
    ----------
    images : Tensor of shape (n, d)
        Of any length; they are taken as unit.
    largest : Tensor of shape (n,), float64
        Largest class probability of each row, as in `ForestFit`.
    tau : float
        τ; rows below it are averaged.
    method : str
        Name of the method, for the error line.

    Returns
    -------
    Tensor of shape (d,), float64

    Raises
    ------
    ValueError
        No row is below τ.
    """
    low = largest < tau - _SLACK
    if not bool(low.any()):
        smallest = largest[~largest.isnan()].min()
        raise ValueError(
            f"{method}: no reference image has a largest class probability below tau = {tau:g} (the smallest "
            f"is {smallest:.3g}), so there is no neutral mean; set tau above {smallest:.3g}"
        )
    return unit(images[low].to(torch.float64)).mean(dim=0)
