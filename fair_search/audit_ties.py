"""Equal scores in an audit: which lists could have been others, and what that does to the figures.

Symbols: N images, M methods, Q queries, K depth.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from bias_evaluation.scoring.ties import Tie, TiedScoresWarning, describe_ties, figures_of_orders
from debiasing_methods.chunks import IMAGE_ROWS
from debiasing_methods.linalg import unit
from fair_search.audit_settings import AuditSettings
from fair_search.fairness_metrics import METRICS, fairness_at
from fair_search.judging import RankedLists
from fair_search.ranking import Scorer, TopLists, read_chunks

_FIGURES = ("kl", "max_skew")


def find_ties(
    embeddings: np.ndarray,
    scorers: Mapping[str, Scorer],
    found: Mapping[str, TopLists],
    keep: np.ndarray,
    ks: Sequence[int],
    *,
    chunk_rows: int = IMAGE_ROWS,
    source: str = "embeddings",
    device: str = "cpu",
) -> dict[int, list[Tie]]:
    """Find the lists whose K-th score is that of images which are not in the list.

    Parameters
    ----------
    embeddings : ndarray of shape (N, d)
    scorers : mapping
        Name of a method → what scores for it.
    found : mapping
        Name → its lists, longer than the largest K where there are more images.
    keep : ndarray of shape (N,), bool
        Rows that may be retrieved.
    ks : sequence of int
    chunk_rows, source, device
        As for `ranking.rank_images`.

    Returns
    -------
    dict
        K → ties, whose place is (method, query). The embeddings are read again only if equal scores go on to
        the end of a list.
    """
    ties: dict[int, list[Tie]] = {k: [] for k in ks}
    for m, (name, lists) in enumerate(found.items()):
        length = lists.scores.shape[1]
        for k in ks:
            if k == length:  # of a list with a place to spare, the next score tells
                continue
            tied = np.flatnonzero(lists.scores[:, k - 1] == lists.scores[:, k])
            cut = [q for q in tied if lists.scores[q, -1] == lists.scores[q, k - 1] and length < keep.sum()]
            members = _members(embeddings, scorers[name], lists, cut, keep, chunk_rows, source, device)
            for q in tied.tolist():
                equal = lists.scores[q] == lists.scores[q, k - 1]
                rows = members.get(q, np.sort(lists.rows[q, equal]))
                ties[k].append(Tie((m, q), rows, int(equal[:k].sum())))
    return ties


def _members(
    embeddings: np.ndarray,
    scorer: Scorer,
    lists: TopLists,
    queries: Sequence[int],
    keep: np.ndarray,
    chunk_rows: int,
    source: str,
    device: str,
) -> dict[int, np.ndarray]:
    """Find all rows with the last score of some lists, by reading the embeddings once more."""
    if not len(queries):
        return {}
    last = torch.from_numpy(lists.scores[queries, -1])
    rows: list[list[np.ndarray]] = [[] for _ in queries]
    for start, chunk in read_chunks(embeddings, chunk_rows, source):
        raw = chunk.to(device)
        scores = scorer.scores(raw, unit(raw), start).to("cpu", torch.float32)[:, queries]
        equal = (scores == last).numpy() & keep[start : start + len(chunk), None]
        for i, column in enumerate(equal.T):
            rows[i].append(start + np.flatnonzero(column))
    return {q: np.concatenate(parts) for q, parts in zip(queries, rows, strict=True)}


def warn_of_ties(
    ties: Mapping[int, Sequence[Tie]],
    lists: RankedLists,
    codes: np.ndarray,
    population: np.ndarray,
    settings: AuditSettings,
) -> None:
    """Warn, a line for each method and K, with the range of its means over random orders.

    Parameters
    ----------
    ties : mapping
        As `find_ties` gives them.
    lists : RankedLists
    codes : ndarray of shape (N,), integer
        Group of each image.
    population : ndarray of shape (C,)
        Share of each group.
    settings : AuditSettings
    """
    desired = settings.shares(population)
    for k, of_k in ties.items():

        def judge(rows: np.ndarray, place: tuple[int, ...] = (), k: int = k) -> dict[str, np.ndarray]:
            values = fairness_at(codes[rows], desired, population, (k,))
            return {METRICS[name].label: values[name][..., 0] for name in _FIGURES}

        for m, method in enumerate(lists.methods):
            mine = [Tie(tie.place[1:], tie.rows, tie.taken) for tie in of_k if tie.place[0] == m]
            if mine:
                top = lists.rows[m, :, :k]
                figures = figures_of_orders(judge(top), top, mine, judge)
                line = describe_ties(f"{method}, K = {k}", len(top), len(mine), figures)
                warnings.warn(line, TiedScoresWarning, stacklevel=3)
