"""Zero-shot classification: accuracy, and accuracy of the worst (target class × bias class) group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from bias_evaluation.metrics import summarize_hits
from debiasing_methods.errors import InputError


def evaluate_classification(
    scores: Iterable[Tensor],
    val: np.ndarray,
    target: np.ndarray,
    bias: np.ndarray,
    n_classes: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Count the right predictions of each group over all folds.

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
    hits, sizes : ndarray of shape (target classes, bias classes), int64
        Right predictions and images of each group, pooled over the folds.
    """
    hits, sizes = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    for fold, fold_scores in enumerate(scores):
        rows = val[fold]
        right = fold_scores.argmax(0).cpu().numpy() == target[rows]
        group = target[rows] * n_classes[1] + bias[rows]
        sizes += np.bincount(group, minlength=sizes.size).reshape(n_classes)
        hits += np.bincount(group, weights=right, minlength=sizes.size).astype(np.int64).reshape(n_classes)
    return hits, sizes


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
    hits, sizes : ndarray of shape (target classes, bias classes)
        As `evaluate_classification` gives them.
    names : tuple of sequences
        Names of the target and of the bias classes.

    Returns
    -------
    dict
        'Acc.' and 'WG Acc.': mean, ci (of the worst group, over its rows) and the groups' accuracies.

    Raises
    ------
    InputError
        A group has no evaluation image, so that its accuracy does not exist.
    """
    check_groups(sizes, names)
    worst = np.unravel_index(np.argmin(hits / sizes), sizes.shape)
    groups = {
        f"{t}|{b}": float(hits[i, j] / sizes[i, j])
        for i, t in enumerate(names[0])
        for j, b in enumerate(names[1])
    }
    mean, ci = summarize_hits(int(hits.sum()), int(sizes.sum()))
    worst_mean, worst_ci = summarize_hits(int(hits[worst]), int(sizes[worst]))
    return {
        "Acc.": {"mean": mean, "ci": ci, "by_group": groups},
        "WG Acc.": {"mean": worst_mean, "ci": worst_ci, "by_group": groups},
    }
