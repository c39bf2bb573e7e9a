"""CLIP-clip: the coordinates that share most information with the bias class are dropped on both sides.

Symbols: n labelled reference images, d embedding dimension, C bias classes, F folds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from debiasing_methods.base import QueryGroup, ReferenceImages
from debiasing_methods.labelled import LabelledImageMethod, LabelledRows
from debiasing_methods.linalg import unit
from debiasing_methods.transforms import CoordinateTransform

ESTIMATORS = ("published", "plugin")
BINS = 64
_COLUMNS = 32  # taken into float64 at once
_NEAR_EDGE = 1e-6  # in bins
_PUBLISHED_KEEP, _PUBLISHED_DIM = 400, 512


class ClipClip(LabelledImageMethod):
    """CLIP-clip: feature clipping by mutual information.

    Source: Wang et al. 2021, "Are Gender-Neutral Queries Really Gender-Neutral? Mitigating Gender Bias in
    Image Search", arXiv:2109.05433, section on post-processing; estimator of the published code.

    Parameters
    ----------
    keep : int, optional
        How many coordinates stay; 400 of 512, and the same share (ours) of another width.
    estimator : {'published', 'plugin'}
        How mutual information is estimated; see `mutual_information`.
    renormalize : bool
        Whether scores are cosines of what is left. Otherwise they are products of what is left of unit
        vectors, as published.

    Notes
    -----
    1. Mutual information of each coordinate of the reference images, as stored (not normalized), and the
       class; of equal coordinates the lower index is kept first.
    2. The `keep` coordinates with the least information stay, of images and of queries; the others become 0.

    Differs from the published code: scores are cosines by default, as in the whole protocol.
    """

    name = "clip-clip"
    display_name = "CLIP-clip"
    changes_text = True
    needs_reference = True

    def __init__(
        self, *, keep: int | None = None, estimator: str = "published", renormalize: bool = True
    ) -> None:
        super().__init__()
        if keep is not None and keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got '{estimator}'")
        self.keep, self.estimator, self.renormalize = keep, estimator, renormalize

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Set the dropped coordinates of unit queries to 0, fold by fold; ``(F, Q, d)``.

        Raises
        ------
        ValueError
            As for `labelled_rows`, or more coordinates are to be kept than there are.
        """
        if reference is None:
            raise ValueError(f"{self.name} needs labelled reference images")
        folds = [self.image_transform((), fold, reference).kept for fold in range(len(reference.folds))]
        return [torch.stack([torch.where(kept, unit(g.queries), 0) for kept in folds]) for g in groups]

    def _fit(self, rows: LabelledRows, reference: ReferenceImages, fold: int) -> CoordinateTransform:
        d = rows.images.shape[1]
        keep = round(d * _PUBLISHED_KEEP / _PUBLISHED_DIM) if self.keep is None else self.keep
        if keep > d:
            raise ValueError(
                f"{self.name}: keep = {keep} coordinates cannot be kept of {d}; set keep to at most {d}"
            )
        columns, labels = rows.images.cpu().numpy(), rows.labels.cpu().numpy()
        information = mutual_information(columns, labels, len(rows.classes), self.estimator)
        kept = np.zeros(d, dtype=bool)
        kept[np.argsort(information, kind="stable")[:keep]] = True
        mask = torch.from_numpy(kept).to(rows.images.device)
        return CoordinateTransform(
            mask, torch.zeros_like(mask, dtype=torch.float64), renormalize=self.renormalize
        )


def mutual_information(
    columns: np.ndarray, labels: np.ndarray, n_classes: int, estimator: str = "published"
) -> np.ndarray:
    """Estimate the mutual information of each column and the class.

    Parameters
    ----------
    columns : ndarray of shape (n, d), floating
    labels : ndarray of shape (n,), integer
        0 to C − 1.
    n_classes : int
        C.
    estimator : str
        ``published``: a 64 × 64 histogram of value and class number over their ranges, smoothed by a Gaussian
        of one bin in both directions, plus the machine epsilon. The class numbers count as a scale, though
        they are names. ``plugin``: 64 bins of the value × C classes, as counted.

    Returns
    -------
    ndarray of shape (d,), float64
        In nats; 0 for a constant column.
    """
    joint = _counts(columns, labels, n_classes)
    information = _information(_smoothed(joint) if estimator == "published" else joint)
    information[columns.min(axis=0) == columns.max(axis=0)] = 0
    return information


def _counts(columns: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Histogram of each column by class, ``(d, 64, C)``: `numpy.histogram2d` for all columns at once."""
    d = columns.shape[1]
    counts = np.empty((d, BINS, n_classes))
    for start in range(0, d, _COLUMNS):
        x = columns[:, start : start + _COLUMNS].astype(np.float64)
        cells = (_bins(x) + BINS * np.arange(x.shape[1])) * n_classes + labels[:, None]
        found = np.bincount(cells.ravel(), minlength=x.shape[1] * BINS * n_classes)
        counts[start : start + _COLUMNS] = found.reshape(-1, BINS, n_classes)
    return counts


def _bins(x: np.ndarray) -> np.ndarray:
    """Bin of each value ``(n, m)`` among 64 equal ones between the least and the largest of its column."""
    low, high = x.min(axis=0), x.max(axis=0)
    place = (x - low) * (BINS / np.where(high > low, high - low, 1))
    bins = place.astype(np.int64)
    near = np.argwhere(np.abs(place - np.rint(place)) < _NEAR_EDGE)  # there the rounded edges decide
    for column in np.unique(near[:, 1]):
        rows = near[near[:, 1] == column, 0]
        edges = np.linspace(low[column], high[column], BINS + 1)
        bins[rows, column] = np.searchsorted(edges, x[rows, column], side="right") - 1
    return np.clip(bins, 0, BINS - 1)


def _smoothed(counts: np.ndarray) -> np.ndarray:
    """Spread the classes over 64 columns as numbers, and smooth; ``(d, 64, 64)``."""
    from scipy.ndimage import gaussian_filter

    n_classes = counts.shape[2]
    joint = np.zeros((*counts.shape[:2], BINS))
    joint[:, :, _bins(np.arange(n_classes, dtype=np.float64)[:, None])[:, 0]] = counts
    return gaussian_filter(joint, sigma=(0, 1, 1), mode="constant") + np.finfo(float).eps


def _information(joint: np.ndarray) -> np.ndarray:
    """Plug-in mutual information of tables of counts ``(d, a, b)``, in nats ``(d,)``."""
    p = joint / joint.sum(axis=(1, 2), keepdims=True)
    independent = p.sum(axis=2, keepdims=True) * p.sum(axis=1, keepdims=True)
    terms = p * np.log(np.divide(p, independent, where=p > 0, out=np.ones_like(p)))
    return terms.sum(axis=(1, 2))
