"""Retrieval fairness: what share of each bias class is among the K images nearest to a query."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.scoring.fold_scores import SharedScores
from bias_evaluation.scoring.metrics import (
    bootstrap_over_folds,
    class_priors,
    class_shares,
    kl_divergence,
    max_skew,
    summarize,
)
from bias_evaluation.scoring.reranking import Reranking
from bias_evaluation.scoring.ties import Tie, TiedScoresWarning, describe_ties, figures_of_orders
from bias_evaluation.scoring.top_k import top_k
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
    where: str = "retrieval",
    rerank: Reranking | None = None,
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
    where : str
        Whose lists they are, for warnings.
    rerank : Reranking, optional
        Makes each fold's lists of K from its scores; by default they are the K best images.

    Returns
    -------
    dict
        'kl', 'max_skew' and, with labels, 'precision': each ``(F, Q)``; Q without the queries that nothing is
        left of (`judged_queries`).

    Raises
    ------
    InputError
        K is too large, or a bias class is absent from a fold.
    ValueError
        A score is NaN or infinite.

    Warns
    -----
    TiedScoresWarning
        Images have the same score as the K-th of a list, so that the order of the rows decides between them.
    """
    check_k(k, val.shape[1])
    priors = [class_priors(bias[rows], classes, fold) for fold, rows in enumerate(val)]
    lists, ties, kept = [], [], None
    for fold, (retrieved, tied) in enumerate(_retrieved_rows(scores, val, k, rerank)):
        kept = judged_queries(scores, len(retrieved))
        lists.append(retrieved[kept])
        ties += [replace(tie, place=(fold, kept.index(*tie.place))) for tie in tied]
    relevant = relevant if relevant is None or kept is None else relevant[kept]

    def judge(rows: np.ndarray, place: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Judge lists ``(n, K)`` of a fold: one of each query, or all of one query."""
        shares, prior = class_shares(bias[rows], len(classes)), priors[place[0]]
        judged = {"kl": kl_divergence(shares, prior), "max_skew": max_skew(shares, prior)}
        if relevant is not None:
            right = relevant if len(place) == 1 else np.tile(relevant[place[1]], (len(rows), 1))
            judged["precision"] = np.take_along_axis(right, rows, 1).mean(1)
        return judged

    judged = [judge(rows, (fold,)) for fold, rows in enumerate(lists)]
    records = {metric: np.stack([each[metric] for each in judged]) for metric in judged[0]}
    if ties:
        figures = figures_of_orders(records, np.stack(lists), ties, judge)
        line = describe_ties(where, records["kl"].size, len(ties), figures)
        warnings.warn(line, TiedScoresWarning, stacklevel=2)
    return records


def judged_queries(scores: Iterable[Tensor], n_queries: int) -> list[int]:
    """Positions of the queries that something is left of; `ValueError` if there is none."""
    empty = scores.empty if isinstance(scores, SharedScores) else ()
    kept = [query for query in range(n_queries) if query not in empty]
    if not kept:
        raise ValueError("nothing is left of any query: all of them lie in the bias itself")
    return kept


def _retrieved_rows(
    scores: Iterable[Tensor], val: np.ndarray, k: int, rerank: Reranking | None
) -> Iterator[tuple[np.ndarray, list[Tie]]]:
    if rerank is not None:
        for rows, of_fold in zip(val, scores, strict=True):
            yield rerank(of_fold, rows, k), []
        return
    if isinstance(scores, SharedScores):
        yield from scores.top_rows(k)
        return
    for rows, of_fold in zip(val, scores, strict=True):
        best, positions = top_k(of_fold, k)
        equal = of_fold == best[:, -1:]
        taken = (best == best[:, -1:]).sum(1)
        ties = [
            Tie((q,), rows[equal[q].cpu().numpy()], int(taken[q]))
            for q in torch.nonzero(equal.sum(1) > taken).flatten().tolist()
        ]
        yield rows[positions.cpu().numpy()], ties


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
