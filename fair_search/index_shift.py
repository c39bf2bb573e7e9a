"""How far approximate retrieval moves each metric.

Symbols: N images, Q queries, L length of the lists, K depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from debiasing_methods.linalg import unit
from fair_search.ann import search_index
from fair_search.audit_settings import AuditSettings
from fair_search.judging import RankedLists, evaluate
from fair_search.ranking import Scorer
from safe_io.errors import InputError

COLUMNS = ("method", "k", "metric", "recall", "exact", "approximate", "shift", "largest_shift")


def compare_index(
    index: Any,
    scorers: Mapping[str, Scorer],
    exact: RankedLists,
    codes: np.ndarray,
    keep: np.ndarray,
    settings: AuditSettings,
    relevant: Callable[[np.ndarray], np.ndarray] | None = None,
) -> pd.DataFrame:
    """Say how far approximate retrieval moves each metric, for the methods that change text alone.

    Parameters
    ----------
    index : faiss.Index
        Of the normalised rows of the embeddings.
    scorers : mapping
        Name of a method → what scores for it.
    exact : RankedLists
        The exact lists of all methods.
    codes : ndarray of shape (N,), integer
        Group of each image.
    keep : ndarray of shape (N,), bool
        Rows that may be retrieved.
    settings : AuditSettings
    relevant : callable, optional
        Rows ``(…, Q, L)`` → whether each has its query's label.

    Returns
    -------
    pandas.DataFrame
        One row a method × K × metric: `recall` (share of the exact top K that the index finds), `exact`,
        `approximate` and `shift` (means over the queries); `largest_shift`: the largest of a single query.
        Overlap is with the first method's exact list.

    Raises
    ------
    InputError
        Every method changes images, or the index finds too few images.
    """
    names = [name for name, scorer in scorers.items() if not scorer.method.changes_images]
    if not names:
        raise InputError(
            f"no method can search through the index: {', '.join(scorers)} change the images, and the index "
            f"holds them as they were; add vanilla, or leave the index out"
        )
    population = np.bincount(codes[keep], minlength=int(codes.max()) + 1) / keep.sum()
    may_be_found = None if keep.all() else keep
    rows: list[tuple[object, ...]] = []
    for name in names:
        text = unit(torch.cat(list(scorers[name].text)).float()).cpu().numpy()
        one = exact.methods.index(name)
        # a search for more images may look further, so its first K are not a search for K
        for k in settings.ks:
            approximate = search_index(index, text, k, may_be_found)
            trio = np.stack([exact.rows[0, :, :k], exact.rows[one, :, :k], approximate])
            found = None if relevant is None else relevant(trio)
            lists = RankedLists(("first", "exact", "approximate"), exact.queries, trio, codes[trio], found)
            values = evaluate(lists, None, population, replace(settings, ks=(k,)))
            rows += [(name, *row) for row in _shifts(lists, values, (k,))]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _shifts(lists: RankedLists, values: np.ndarray, ks: Sequence[int]) -> Iterator[tuple[object, ...]]:
    """Compare lists 1 (exact) and 2 (approximate) by their values ``(metrics, 3, Q, len(ks))``."""
    for i, k in enumerate(ks):
        exact, approximate = lists.rows[1, :, :k], lists.rows[2, :, :k]
        recall = np.mean([np.isin(a, e).mean() for a, e in zip(approximate, exact, strict=True)])
        for metric, value in zip(lists.metrics, values[..., i], strict=True):
            shift = value[2] - value[1]
            largest = shift[np.abs(shift).argmax()]
            yield k, metric, recall, value[1].mean(), value[2].mean(), shift.mean(), largest
