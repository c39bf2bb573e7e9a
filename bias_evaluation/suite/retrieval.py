"""Retrieval fairness: what share of each bias class is among the K images nearest to a query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from bias_evaluation.suite.metrics import (
    bootstrap_over_folds,
    class_priors,
    class_shares,
    kl_divergence,
    max_skew,
    summarize,
)
from bias_evaluation.suite.scoring import SharedScores
from bias_evaluation.suite.top_k import top_k
from safe_io.errors import InputError


def check_k(k: int, n_images: int) -> None:
    """Raise `InputError` where K images cannot be retrieved from a fold."""
    if not 1 <= k <= n_images:
        raise InputError(
            f"K = {k} images cannot be retrieved from {n_images} evaluation images of a fold; "
            f"set retrieval_k (--retrieval-k) between 1 and {n_images}"
        )


def evaluate_retrieval(
    scores: Iterable[Tensor],
    val: np.ndarray,
    bias: np.ndarray,
    classes: Sequence[object],
    k: int,
    relevant: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Judge the retrieved images of every fold and query.

    Parameters
    ----------
    scores : iterable of Tensor of shape (Q, m)
        Of each fold's evaluation images, as `fold_scores` gives them.
    val : ndarray of shape (F, m)
        Rows of those images.
    bias : ndarray of shape (N,), integer
        Bias class of every image.
    classes : sequence
        Names of the bias classes.
    k : int
        Number of images to retrieve.
    relevant : ndarray of shape (Q, N), bool, optional
        Which images have a query's label.

    Returns
    -------
    dict
        'kl', 'max_skew' and, with labels, 'precision': each ``(F, Q)``.

    Raises
    ------
    InputError
        K is too large, or a bias class is absent from a fold.
    ValueError
        A score is NaN or infinite.
    """
    check_k(k, val.shape[1])
    records: dict[str, list[np.ndarray]] = {"kl": [], "max_skew": []}
    for fold, retrieved in enumerate(_retrieved_rows(scores, val, k)):  # (Q, k)
        prior = class_priors(bias[val[fold]], classes, fold)
        shares = class_shares(bias[retrieved], len(classes))
        records["kl"].append(kl_divergence(shares, prior))
        records["max_skew"].append(max_skew(shares, prior))
        if relevant is not None:
            records.setdefault("precision", []).append(np.take_along_axis(relevant, retrieved, 1).mean(1))
    return {metric: np.stack(values) for metric, values in records.items()}


def _retrieved_rows(scores: Iterable[Tensor], val: np.ndarray, k: int) -> Iterator[np.ndarray]:
    if isinstance(scores, SharedScores):
        yield from scores.top_rows(k)
    else:
        for rows, of_fold in zip(val, scores, strict=True):
            yield rows[top_k(of_fold, k)[1].cpu().numpy()]


def summarize_retrieval(
    records: Mapping[str, np.ndarray], queries: Sequence[str]
) -> dict[str, dict[str, object]]:
    """Mean and interval over all folds × queries, and each query's mean over the folds.

    Parameters
    ----------
    records : mapping
        Metric → values ``(F, Q)``, as `evaluate_retrieval` gives them.
    queries : sequence of str
        Names of the Q queries.

    Returns
    -------
    dict
        Metric → mean, ci, ci_bootstrap (over folds) and by_query (name → mean).
    """
    summary: dict[str, dict[str, object]] = {}
    for metric, values in records.items():
        mean, ci = summarize(values)
        by_query = dict(zip(queries, values.mean(0).tolist(), strict=True))
        fold_means = values.mean(1)
        bootstrap = bootstrap_over_folds(lambda draws, m=fold_means: m[draws].mean(1), len(values))
        summary[metric] = {"mean": mean, "ci": ci, "ci_bootstrap": bootstrap, "by_query": by_query}
    return summary
