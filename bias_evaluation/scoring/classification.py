"""Zero-shot classification: accuracy, and accuracy of the worst (target class × bias class) group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from torch import Tensor

from bias_evaluation.scoring.metrics import bootstrap_over_folds, summarize_hits
from bias_evaluation.scoring.top_k import check_scores
from safe_io.errors import InputError


def evaluate_classification(
    scores: Iterable[Tensor],
    val: np.ndarray,
    target: np.ndarray,
    bias: np.ndarray,
    n_classes: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Count the right predictions of each group in each fold.

    Parameters
    ----------
    scores : iterable of Tensor of shape (target classes, m)
        Of each fold's evaluation images; the prediction is the class with the highest score.
    val : ndarray of shape (F, m)
        Rows of those images.
    target, bias : ndarray of shape (N,), integer
        Target and bias class of every image.
    n_classes : tuple of int
        Number of target and of bias classes.

    Returns
    -------
    hits, sizes : ndarray of shape (F, target classes, bias classes), int64
        Right predictions and images of each group.

    Raises
    ------
    ValueError
        A score is NaN or infinite.
    """
    hits, sizes, n = [], [], n_classes[0] * n_classes[1]
    for fold, fold_scores in enumerate(scores):
        check_scores(fold_scores)
        rows = val[fold]
        right = fold_scores.argmax(0).cpu().numpy() == target[rows]
        group = target[rows] * n_classes[1] + bias[rows]
        sizes.append(np.bincount(group, minlength=n).reshape(n_classes))
        hits.append(np.bincount(group, weights=right, minlength=n).astype(np.int64).reshape(n_classes))
    return np.stack(hits), np.stack(sizes)


def check_groups(sizes: np.ndarray, names: tuple[Sequence[object], Sequence[object]]) -> None:
    """Raise `InputError` where a (target class × bias class) group has no image."""
    empty = np.argwhere(sizes == 0)
    if len(empty):
        target, bias = empty[0]
        raise InputError(
            f"no evaluation image has target class '{names[0][target]}' and bias class '{names[1][bias]}', "
            f"so worst-group accuracy is undefined; use folds that hold every group, or drop the class"
        )


def summarize_classification(
    hits: np.ndarray,
    sizes: np.ndarray,
    names: tuple[Sequence[object], Sequence[object]],
) -> dict[str, dict[str, object]]:
    """Accuracy and worst-group accuracy with their intervals.

    Parameters
    ----------
    hits, sizes : ndarray of shape (F, target classes, bias classes)
        As `evaluate_classification` gives them.
    names : tuple of sequences
        Names of the target and of the bias classes.

    Returns
    -------
    dict
        'Acc.' and 'WG Acc.' of all folds' rows together: mean, ci (of the worst group, over its rows),
        ci_bootstrap (over folds) and the groups' accuracies.

    Raises
    ------
    InputError
        A group has no evaluation image, so that its accuracy does not exist.
    """
    all_hits, all_sizes = hits.sum(0), sizes.sum(0)
    check_groups(all_sizes, names)
    worst = np.unravel_index(np.argmin(all_hits / all_sizes), all_sizes.shape)
    groups = {
        f"{t}|{b}": float(all_hits[i, j] / all_sizes[i, j])
        for i, t in enumerate(names[0])
        for j, b in enumerate(names[1])
    }

    def accuracy(draws: np.ndarray) -> np.ndarray:
        return hits.sum((1, 2))[draws].sum(1) / sizes.sum((1, 2))[draws].sum(1)

    def worst_accuracy(draws: np.ndarray) -> np.ndarray:
        drawn = sizes[draws].sum(1)  # a group that a draw has no image of cannot be its worst
        return np.where(drawn > 0, hits[draws].sum(1) / np.maximum(drawn, 1), np.inf).min((1, 2))

    return {
        "Acc.": _metric(all_hits.sum(), all_sizes.sum(), accuracy, len(hits), groups),
        "WG Acc.": _metric(all_hits[worst], all_sizes[worst], worst_accuracy, len(hits), groups),
    }


def _metric(
    hits: np.int64,
    n: np.int64,
    statistic: Callable[[np.ndarray], np.ndarray],
    n_folds: int,
    groups: dict[str, float],
) -> dict[str, object]:
    mean, ci = summarize_hits(int(hits), int(n))
    bootstrap = bootstrap_over_folds(statistic, n_folds)
    return {"mean": mean, "ci": ci, "ci_bootstrap": bootstrap, "by_group": groups}
